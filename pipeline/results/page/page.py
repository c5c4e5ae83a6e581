"""The report as one HTML file: words and numbers of the facts, put into the template."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.config.load import resolved_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import num_classes_of
from pipeline.results.figures import confusion_figure
from pipeline.results.page.facts import CURVES, Facts, Model
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
    """A metric of the comparison."""

    name: str
    title: str
    form: str
    best: Any = max  # of the values of all networks


COLUMNS = (
    Column("top1", "top-1", "{:.1%}"),
    Column("top5", "top-5", "{:.1%}"),
    Column("nll", "NLL", "{:.3f}", min),
    Column("ece", "calibration error", "{:.1%}", min),
    Column("agreement", "agrees with teacher", "{:.1%}"),
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
    environment.filters |= {"bytes": _bytes, "duration": duration}
    evaluation, teacher = facts.evaluation, facts.config.teacher
    width = f", width {teacher.embed_dim}" if teacher.embed_dim else ""
    depths = f", depths {list(teacher.depths)}" if teacher.depths else ""
    return environment.get_template("page.html").render(
        style=Markup((HERE / "style.css").read_text()),
        name=facts.config.dataset.name,
        made=f"{datetime.now(UTC):%-d %B %Y, %H:%M} UTC",
        labels=LABELS,
        headline=headline(facts),
        verdict=verdict(facts),
        num_val=len(evaluation.rows),
        interval=evaluation.interval,
        selection=facts.config.train.selection,
        interval_note=" ".join([evaluation.units.note, *(f"{line}." for line in evaluation.seen)]),
        accuracy=_accuracy(facts),
        dataset=facts.dataset,
        store=facts.store,
        models=facts.models,
        scores=_scores(facts),
        comparison=_comparison(facts),
        confusion={
            role: _image(confusion_figure(evaluation.confusion(role), evaluation.class_names))
            for role in evaluation.probabilities
        },
        efficiency=_efficiency(facts),
        curves=[_curves(name, facts.models) for name in CURVES],
        disagreements=facts.disagreements,
        disagreements_text=_disagreements_text(facts),
        teacher_title=f"Teacher, Video-FocalNet {teacher.variant}{width}{depths}",
        lineage=_lineage(facts),
        config=resolved_yaml(facts.config),
    )


def headline(facts: Facts) -> str:
    """Say the result in one sentence."""
    scores, (teacher, _, student) = _scores(facts), facts.models
    if "student" not in scores:
        return f"{facts.config.dataset.name}: no student has been trained from the cache yet"
    size = teacher.num_parameters / student.num_parameters
    told = (
        f"A student {size:.1f} times smaller than its teacher gets {scores['student']['top1']:.1%} "
        f"of {len(facts.evaluation.rows)} videos of val right"
    )
    if "teacher" in scores:
        told += f", the teacher {scores['teacher']['top1']:.1%}"
    if "baseline" in scores:
        told += f", and the same student without the cache {scores['baseline']['top1']:.1%}"
    return f"{told}."


def verdict(facts: Facts) -> str:
    """Say what the cache was worth, and whether so few videos can tell."""
    scores = _scores(facts)
    if not {"baseline", "student"} <= scores.keys():
        return "Missing parts are named below."
    before, after = scores["baseline"], scores["student"]
    gain = facts.evaluation.difference("student", "baseline")["top1"]
    told = (
        f"Beside the same student from labels alone, the cache changed top-1 by "
        f"{100 * gain.mean:+.1f} points ({facts.evaluation.interval}: {100 * gain.low:+.1f} to "
        f"{100 * gain.high:+.1f})"
    )
    if not gain.excludes_zero:
        told += f", which {facts.evaluation.units} cannot tell from none"
    return (
        f"{told}; NLL went from {before['nll']:.2f} to {after['nll']:.2f} and calibration error "
        f"from {before['ece']:.1%} to {after['ece']:.1%}."
    )


def _scores(facts: Facts) -> dict[str, dict[str, Any]]:
    """Return the metrics of the networks that have any, by role."""
    scores: dict[str, dict[str, Any]] = facts.evaluation.summary["networks"]
    return scores


def _accuracy(facts: Facts) -> dict[str, Any]:
    """Place top-1 of each network with its interval on one scale, in percent of its length."""
    scores, chance = _scores(facts), 1 / num_classes_of(facts.config)
    floor = min([chance, *(metrics["top1_interval"][0] for metrics in scores.values())])
    tenths = math.floor(10 * floor)

    def at(value: float) -> Any:
        return round(100 * (10 * value - tenths) / (10 - tenths), 1)

    return {
        "chance": at(chance),
        "ticks": [(at(n / 10), f"{n / 10:.0%}") for n in range(10, tenths - 1, -2)],
        "rows": [
            {
                "role": role,
                "label": LABELS[role],
                "top1": metrics["top1"],
                "mean": at(metrics["top1"]),
                "low": at(metrics["top1_interval"][0]),
                "high": at(metrics["top1_interval"][1]),
            }
            for role, metrics in scores.items()
        ],
    }


def _comparison(facts: Facts) -> dict[str, Any]:
    """Return the titles of the columns, and the cells of each role."""
    scores = _scores(facts)
    cells: dict[str, list[dict[str, Any]]] = {model.role: [] for model in facts.models}
    for column in COLUMNS:
        values = {
            role: metrics[column.name] for role, metrics in scores.items() if column.name in metrics
        }
        best = column.best(values.values()) if len(values) > 1 else None
        for role, row in cells.items():
            value, below = values.get(role), ""
            if column.name == "top1" and value is not None:
                below = " to ".join(f"{100 * end:.1f}" for end in scores[role]["top1_interval"])
            text = "-" if value is None else column.form.format(value)
            row.append({"text": text, "best": value is not None and value == best, "below": below})
    return {"header": [column.title for column in COLUMNS], **cells}


def _image(figure: Figure) -> str:
    """Return a figure as a data URI. Its background is left to the page, which may be dark."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _efficiency(facts: Facts) -> list[dict[str, Any]]:
    teacher, _, student = facts.models
    charts = [
        _bars(
            title,
            [
                ("teacher", "teacher", more, f"{more:.3g}"),
                ("student", "student", less, f"{less:.3g}"),
            ],
            f"{more / less:.1f} times less in the student",
        )
        for title, more, less in (
            ("Parameters, millions", teacher.num_parameters / 1e6, student.num_parameters / 1e6),
            ("GMAC a clip", teacher.num_macs / 1e9, student.num_macs / 1e9),
        )
    ]
    if (dataset := facts.dataset.value) and (store := facts.store.value):
        sizes = [
            ("baseline", "videos", dataset.num_bytes, _bytes(dataset.num_bytes)),
            ("student", "store", store.num_bytes, _bytes(store.num_bytes)),
        ]
        charts.append(
            _bars("Bytes", sizes, f"{store.view_bytes:.0f} bytes a view, proofs included")
        )
    return charts


def _bars(title: str, bars: Sequence[tuple[str, str, float, str]], note: str) -> dict[str, Any]:
    longest = max(value for _, _, value, _ in bars)
    return {
        "title": title,
        "note": note,
        "bars": [
            {"role": role, "label": label, "percent": f"{100 * value / longest:.1f}", "text": text}
            for role, label, value, text in bars
        ],
    }


def _curves(name: str, models: Sequence[Model]) -> dict[str, Any]:
    """Place a metric of each run, from its start to its end, in a drawing of 420 x 230."""
    points_of = {
        model.role: points
        for model in models
        if model.curves.value and len(points := model.curves.value[name]) > 1
    }
    values = [value for points in points_of.values() for _, value in points]
    ticks = (
        MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(min(values), max(values))
        if values
        else []
    )

    def y(value: float) -> Any:
        return round(200 - 184 * (value - ticks[0]) / (ticks[-1] - ticks[0]), 1)

    return {
        "title": CURVE_TITLES[name],
        "ticks": [(y(tick), f"{tick:.0%}" if "top1" in name else f"{tick:.3g}") for tick in ticks],
        "lines": [
            (role, " ".join(f"{46 + 362 * step / points[-1][0]:.1f},{y(v)}" for step, v in points))
            for role, points in points_of.items()
        ],
    }


def _disagreements_text(facts: Facts) -> str:
    """Say how many there are, of which the ones with the largest divergence are shown."""
    if facts.disagreements.value is None:
        return ""
    num_videos = len(facts.evaluation.rows)
    count = round((1 - _scores(facts)["student"]["agreement"]) * num_videos)
    if not count:
        return f"Nowhere: on all {num_videos} videos of val both say the same."
    return (
        f"On {count} of {num_videos} videos of val they name different classes. The "
        f"{len(facts.disagreements.value)} with the largest KL(teacher || student), in nats; the "
        "true class is in bold, and time goes right."
    )


def _lineage(facts: Facts) -> list[tuple[str, str, dict[str, str]]]:
    """Return title, words and digests of each link of the chain."""
    dataset, store = facts.dataset.value, facts.store.value
    teacher, _, student = facts.models

    def link(title: str, model: Model, digest: str) -> tuple[str, str, dict[str, str]]:
        run = model.run.value
        if run is None:
            return title, "not trained here", {"weights": digest, "run": ""}
        return title, run.name, {"weights": digest, "run": run.run_id}

    videos = ("Videos", "not indexed", {"manifest": ""})
    if dataset:
        videos = ("Videos", f"{dataset.num_good} good ones", {"manifest": dataset.digest})
    cache = ("Logit store", "not sealed", {"root": ""})
    made_by = teacher.weights_digest
    if store:
        made_by = str(store.teacher["weights_sha256"])
        digests = {"fingerprint": store.fingerprint, "root": store.root_digest}
        cache = ("Logit store", f"{store.num_good:,} views", digests | {"run": store.run_id})
    return [
        videos,
        link("Teacher", teacher, made_by),
        cache,
        link("DVFL-Net", student, student.weights_digest),
    ]


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
