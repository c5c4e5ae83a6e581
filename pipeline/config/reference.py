"""Every setting, for editors and for readers: a JSON schema, and the page docs/settings.md.

Both come from the schema of the config, whose docstrings say what a setting means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.config.experiment import ExperimentConfig

# What a setting decides, by the longest key that it begins with.
DECIDES = {
    "artefacts": "place",
    "dataset": "data",
    "dataset.max_failed_fraction": "checks",
    "dataset.max_missing_fraction": "checks",
    "clip": "logits",
    "views": "logits",
    "frames": "logits",
    "frames.uri": "place",
    "frames.videos_per_unit": "speed",
    "frames.units_per_file": "speed",
    "teacher": "logits",
    "teacher.min_top1": "checks",
    "teacher.seen": "checks",
    **{
        f"teacher.{name}": "teacher"
        for name in ("drop_path_rate", "init", "preserve", "label", "optim", "train")
    },
    "store": "speed",
    "store.uri": "place",
    "student": "student",
    "loss": "student",
    "optim": "student",
    "train": "student",
    "train.audit_rate": "checks",
    "train.checkpoint_activations": "speed",
    "train.log_every_steps": "curves",
    "train.num_loaders": "speed",
    "train.max_failures": "checks",
    "sweep": "trials",
    "evaluate": "speed",
    "cluster": "speed",
    "cluster.num_workers": "student",
    "tracking": "place",
}
HEAD = """# Settings

Every setting of an experiment's YAML file, from `pipeline/config/`. `python jobs/schema.py --page`
writes this page, and `python jobs/schema.py` the JSON schema by which editors complete and check
([configs/experiment.schema.json](../configs/experiment.schema.json)); each config names it in its
first line.

*Decides*: **data** videos and labels; **logits** the fingerprint of the store; **teacher**,
**student** the weights that are trained; **trials** which students a sweep has; **curves** what is
drawn; **checks** what is refused; **speed** time and memory; **place** where things lie. Below
`teacher.optim` stand the settings of `optim`, below `teacher.train` those of `train`.
"""


def json_schema() -> str:
    """Return the JSON schema of an experiment."""
    return json.dumps(ExperimentConfig.model_json_schema(), indent=1) + "\n"


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    schema = ExperimentConfig.model_json_schema()
    lines = [HEAD]
    for section, model in _sections(ExperimentConfig, ""):
        lines += [f"## {section}" if section else "## The file itself", ""]
        lines += [" ".join((model.__doc__ or "").replace("``", "`").split()), ""]
        lines += ["| Setting | Values | Default | Meaning | Decides |", "|---|---|---|---|---|"]
        properties = schema if not section else schema["$defs"][model.__name__]
        for name, values in properties["properties"].items():
            if _inner(model, name) is None:
                key = f"{section}.{name}" if section else name
                meaning = " ".join(values["description"].split())
                cells = (f"`{name}`", _values(values), _default(values), meaning)
                lines.append(f"| {' | '.join((*cells, decides(key)))} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def decides(key: str) -> str:
    """Return what a setting decides; KeyError for one that the table lacks."""
    return DECIDES[max((known for known in DECIDES if key.startswith(known)), key=len, default="")]


def _sections(model: type[BaseModel], name: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the names of sections and their models, each model once, by its shortest name."""
    yield name, model
    outermost = {_inner(ExperimentConfig, field) for field in ExperimentConfig.model_fields}
    for field in model.model_fields:
        inner = _inner(model, field)
        if inner is not None and (not name or inner not in outermost):
            yield from _sections(inner, f"{name}.{field}" if name else field)


def _inner(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _values(schema: dict[str, Any]) -> str:
    """Say in words which values a setting may have."""
    if "anyOf" in schema:
        return " or ".join(_values(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = schema["type"]
    if kind == "array":
        items = schema.get("items") or schema["prefixItems"][0]
        return f"list of {_values(items)}"
    bounds = [
        f"{sign} {schema[name]:g}"
        for name, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if name in schema
    ]
    words = {"string": "text", "boolean": "true, false"}
    return " ".join([words.get(kind, kind), *bounds])


def _default(schema: dict[str, Any]) -> str:
    if "default" not in schema:
        return "required"
    value = schema["default"]
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
