"""From facts to one HTML file: the words and numbers of the page, put into its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from pipeline.config.load import resolved_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.results.page.charts import Dot, accuracy_chart, confusion_chart, curves_chart
from pipeline.results.page.facts import (
    CURVES,
    Dataset,
    Facts,
    Missing,
    Model,
    Scores,
    Store,
    gain_over,
)
from pipeline.results.page.gather import gather_facts
from pipeline.storage.files import join_uri, write_bytes
from pipeline.tracking.progress import duration

HERE = Path(__file__).parent
LABELS = {"teacher": "Teacher", "baseline": "VFL-Net (labels)", "student": "DVFL-Net (cache)"}
CURVE_TITLES = {
    "val/top1": "Top-1 on val",
    "val/nll": "NLL on val, nats",
    "train/loss": "Training loss, each run its own",
}


class Column(NamedTuple):
    """A metric of the comparison: how it is written, and whether more is better."""

    name: str
    scale: float
    form: str
    more_is_better: bool


TOP1 = Column("top1", 100, "{:.1f}%", True)
AFTER_TOP1 = (
    Column("top5", 100, "{:.1f}%", True),
    Column("nll", 1, "{:.3f}", False),
    Column("ece", 100, "{:.1f}%", False),
    Column("agreement", 100, "{:.1f}%", True),
)


def write_report(config: ExperimentConfig) -> str:
    """Gather what is there, write the page below the artefacts and return its URI."""
    uri = join_uri(config.artefacts, "report.html")
    write_bytes(uri, render(gather_facts(config)).encode())
    return uri


def render(facts: Facts) -> str:
    """Return the whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    dataset, store = facts.dataset, facts.store
    there = not isinstance(dataset, Missing)
    return environment.get_template("page.html").render(
        style=Markup((HERE / "style.css").read_text()),
        name=facts.config.dataset.name,
        made=f"{datetime.now(UTC):%-d %B %Y, %H:%M} UTC",
        headline=headline(facts),
        verdict=verdict(facts),
        num_val=facts.num_val,
        accuracy=_accuracy(facts),
        dataset=dataset,
        dataset_is_there=there,
        length=duration(dataset.seconds) if isinstance(dataset, Dataset) else "",
        size=_bytes(dataset.num_bytes) if isinstance(dataset, Dataset) else "",
        store=store,
        store_is_there=not isinstance(store, Missing),
        store_size=_store_size(store) if isinstance(store, Store) else "",
        comparison=_comparison(facts.models),
        models=[_shown(model, dataset) for model in facts.models],
        efficiency=_efficiency(facts),
        curves=_curves(facts.models),
        disagreements=facts.disagreements,
        disagreements_are_there=not isinstance(facts.disagreements, Missing),
        num_disagreements_text=_disagreements_text(facts),
        teacher=_teacher(facts.models[0]),
        lineage=_lineage(facts),
        config=resolved_yaml(facts.config),
    )


def headline(facts: Facts) -> str:
    """Say the result in one sentence."""
    teacher, baseline, student = facts.models
    if isinstance(student.scores, Missing):
        return f"{facts.config.dataset.name}: no student has been trained from the cache yet"
    size = teacher.cost.num_parameters / student.cost.num_parameters
    told = (
        f"A student {size:.1f} times smaller than its teacher gets {_top1(student.scores)} of "
        f"{facts.num_val} unseen videos right"
    )
    if isinstance(teacher.scores, Scores):
        told += f", the teacher {_top1(teacher.scores)}"
    if isinstance(baseline.scores, Scores):
        told += f", and the same student without the cache {_top1(baseline.scores)}"
    return f"{told}."


def verdict(facts: Facts) -> str:
    """Say what the cache was worth, and whether so few videos can tell."""
    _, baseline, student = facts.models
    if isinstance(student.scores, Missing) or isinstance(baseline.scores, Missing):
        return "What is not there yet is named in its place below."
    gain = gain_over(student.scores, baseline.scores)
    low, high = (f"{100 * bound:+.1f}" for bound in (gain.low, gain.high))
    told = (
        f"Beside the same student from labels alone, the cache changed top-1 by "
        f"{100 * gain.mean:+.1f} points (95% interval over videos {low} to {high})"
    )
    if not gain.excludes_zero:
        told += f", which {facts.num_val} videos cannot tell from none"
    before, after = (model.scores.metrics for model in (baseline, student))  # type: ignore[union-attr]
    return (
        f"{told}; NLL went from {before['nll']:.2f} to {after['nll']:.2f} and calibration error "
        f"from {before['ece']:.1%} to {after['ece']:.1%}."
    )


def _top1(scores: Scores) -> str:
    return f"{scores.metrics['top1']:.1%}"


def _accuracy(facts: Facts) -> Markup | None:
    dots = [
        Dot(
            model.role,
            LABELS[model.role],
            *model.scores.interval,
        )
        for model in facts.models
        if isinstance(model.scores, Scores)
    ]
    return accuracy_chart(dots, 1 / facts.config.dataset.num_classes) if dots else None


def _comparison(models: Sequence[Model]) -> list[dict[str, Any]]:
    return [
        {"role": model.role, "label": LABELS[model.role], "cells": _cells(model, models)}
        for model in models
    ]


def _cells(model: Model, models: Sequence[Model]) -> list[dict[str, Any]]:
    def cell(text: str, *, best: bool = False) -> dict[str, Any]:
        return {"text": text, "best": best, "below": ""}

    def metric(column: Column) -> dict[str, Any]:
        if isinstance(model.scores, Missing):
            return cell("-")
        if model.role == "teacher" and column.name == "agreement":
            return cell("-")
        value = model.scores.metrics[column.name]
        text = column.form.format(column.scale * value)
        return cell(text, best=_is_best(value, column, models))

    top1 = metric(TOP1)
    if isinstance(model.scores, Scores):
        top1["below"] = " to ".join(f"{100 * end:.1f}" for end in model.scores.interval[1:])
    return [
        top1,
        *map(metric, AFTER_TOP1),
        cell(f"{model.cost.num_parameters / 1e6:.3g} M"),
        cell(f"{model.cost.num_macs / 1e9:.3g}"),
        cell("-" if model.seconds is None else duration(model.seconds)),
    ]


def _is_best(value: float, column: Column, models: Sequence[Model]) -> bool:
    others = [
        model.scores.metrics[column.name]
        for model in models
        if isinstance(model.scores, Scores)
        and not (model.role == "teacher" and column.name == "agreement")
    ]
    return len(others) > 1 and value == (max(others) if column.more_is_better else min(others))


def _shown(model: Model, dataset: Dataset | Missing) -> dict[str, Any]:
    """Return what the template shows of a model outside the table."""
    shown: dict[str, Any] = {
        "role": model.role,
        "label": LABELS[model.role],
        "missing": model.scores.reason if isinstance(model.scores, Missing) else "",
        "no_curves": f"({model.curves.reason})" if isinstance(model.curves, Missing) else "",
        "confusion": None,
        "right": "",
    }
    if isinstance(model.scores, Scores) and isinstance(dataset, Dataset):
        right = model.scores.right
        shown["confusion"] = confusion_chart(model.scores.confusion, dataset.class_names)
        shown["right"] = f"{int(right.sum())} of {len(right)} right"
    return shown


def _efficiency(facts: Facts) -> list[dict[str, Any]]:
    teacher, _, student = facts.models
    chosen = {"teacher": teacher, "student": student}
    params = {role: model.cost.num_parameters / 1e6 for role, model in chosen.items()}
    macs = {role: model.cost.num_macs / 1e9 for role, model in chosen.items()}
    charts = [
        _bars("Parameters, millions", params, "{:.3g}", _times(params)),
        _bars("GMAC a clip", macs, "{:.3g}", _times(macs)),
    ]
    if isinstance(facts.store, Store) and isinstance(facts.dataset, Dataset):
        sizes = {"baseline": facts.dataset.num_bytes, "student": facts.store.num_bytes}
        labels = {"baseline": "videos", "student": "store"}
        a_view = facts.store.num_bytes / max(facts.store.num_good, 1)
        note = f"{a_view:.0f} bytes a view, proofs included"
        charts.append(_bars("Bytes", sizes, "", note, labels))
    return charts


def _times(values: Mapping[str, float]) -> str:
    return f"{values['teacher'] / values['student']:.1f} times less in the student"


def _bars(
    title: str,
    values: Mapping[str, float],
    form: str,
    note: str,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    longest = max(values.values())
    bars = [
        {
            "role": role,
            "label": (labels or {"teacher": "teacher", "student": "student"})[role],
            "percent": f"{100 * value / longest:.1f}",
            "text": form.format(value) if form else _bytes(value),
        }
        for role, value in values.items()
    ]
    return {"title": title, "bars": bars, "note": note}


def _curves(models: Sequence[Model]) -> list[dict[str, Any]]:
    return [
        {
            "title": CURVE_TITLES[name],
            "svg": curves_chart(
                {m.role: m.curves[name] for m in models if not isinstance(m.curves, Missing)},
                title=CURVE_TITLES[name],
                percent=name == "val/top1",
            ),
        }
        for name in CURVES
    ]


def _disagreements_text(facts: Facts) -> str:
    """Say how many there are, of which the ones with the largest divergence are shown."""
    _, _, student = facts.models
    if isinstance(facts.disagreements, Missing) or isinstance(student.scores, Missing):
        return ""
    count = round((1 - student.scores.metrics["agreement"]) * facts.num_val)
    if not count:
        return f"Nowhere: on all {facts.num_val} videos of val both say the same."
    shown = len(facts.disagreements)
    return (
        f"On {count} of {facts.num_val} videos of val they name different classes. The {shown} "
        "with the largest KL(teacher || student), in nats; the true class is in bold, and time "
        "goes right."
    )


def _teacher(model: Model) -> dict[str, str]:
    top1 = "" if isinstance(model.scores, Missing) else _top1(model.scores)
    return {
        "title": model.title,
        "digest": model.weights_digest,
        "run": model.run,
        "top1": top1,
    }


def _lineage(facts: Facts) -> list[dict[str, Any]]:
    dataset, store = facts.dataset, facts.store
    teacher, _, student = facts.models

    def link(title: str, text: str, **digests: str) -> dict[str, Any]:
        named = [{"name": name, "value": value} for name, value in digests.items()]
        return {"title": title, "text": text, "digests": named}

    videos = link("Videos", "not indexed", manifest="")
    if isinstance(dataset, Dataset):
        num_good = sum(good for good, _ in dataset.num_videos.values())
        videos = link("Videos", f"{num_good} good ones", manifest=dataset.digest)
    cache = link("Logit store", "not sealed", root="")
    made_by = teacher.weights_digest
    if isinstance(store, Store):
        made_by = str(store.teacher["weights_sha256"])
        cache = link(
            "Logit store",
            f"{store.num_good:,} views",
            fingerprint=store.fingerprint,
            root=store.root_digest,
            run=store.run_id,
        )
    return [
        videos,
        link("Teacher", teacher.run, weights=made_by, run=teacher.run_id),
        cache,
        link("DVFL-Net", student.run, weights=student.weights_digest, run=student.run_id),
    ]


def _store_size(store: Store) -> str:
    a_view = store.num_bytes / max(store.num_good, 1)
    return f"{_bytes(store.num_bytes)}, {a_view:.0f} bytes a view"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
