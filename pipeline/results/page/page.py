"""The report as one HTML file: words and numbers of the facts, put into the template."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import resolved_yaml
from pipeline.dataset.manifest import num_classes_of
from pipeline.results.figures import confusion_figure, curves_figure
from pipeline.results.intervals import Interval
from pipeline.results.page.gather import CURVES, Facts, gather_facts
from pipeline.storage.files import join_uri, write_bytes
from pipeline.tracking.progress import duration
from pipeline.tracking.run import figure_png
from pipeline.tracking.server import shown_by

HERE = Path(__file__).parent
LABELS = {"teacher": "Teacher", "baseline": "VFL-Net (labels)", "student": "DVFL-Net (cache)"}
# Columns of the comparison: metric, title, form, and which value of all networks is the best.
COLUMNS: tuple[tuple[str, str, str, Callable[[Iterable[float]], float]], ...] = (
    ("top1", "top-1", "{:.1%}", max),
    ("top5", "top-5", "{:.1%}", max),
    ("nll", "NLL", "{:.3f}", min),
    ("ece", "calibration error", "{:.1%}", min),
    ("agreement", "agrees with teacher", "{:.1%}", max),
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
    environment.filters["duration"] = duration
    evaluation = facts.evaluation
    return environment.get_template("page.html").render(
        **vars(facts),
        style=Markup((HERE / "style.css").read_text()),
        made=f"{datetime.now(UTC):%-d %B %Y, %H:%M} UTC",
        labels=LABELS,
        headline=headline(facts),
        verdict=verdict(facts),
        seeds=seeds(facts),
        next_steps=next_steps(facts),
        accuracy=_accuracy(facts),
        scores=_scores(facts),
        comparison=_comparison(facts),
        confusion={
            role: _image(confusion_figure(evaluation.confusion(role), evaluation.class_names))
            for role in evaluation.probabilities
        },
        curves={title: _curves(facts, name) for name, title in CURVES.items()},
        yaml=resolved_yaml(facts.config),
    )


def headline(facts: Facts) -> str:
    """Return the result in one sentence."""
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
    """Return in words what the cache changed, and whether so few videos can show it."""
    scores = _scores(facts)
    if not {"baseline", "student"} <= scores.keys():
        return "Missing parts are named below."
    before, after = scores["baseline"], scores["student"]
    gain = facts.evaluation.difference("student", "baseline")["top1"]
    told = (
        f"Beside the same student from labels alone, the cache changed top-1 by "
        f"{100 * gain.mean:+.1f} points ({facts.evaluation.units.interval}: "
        f"{gain.scaled(100).bounds('{:+.1f}')})"
    )
    if not gain.excludes_zero:
        told += f", which {facts.evaluation.units} cannot tell from none"
    return (
        f"{told}; NLL went from {before['nll']:.2f} to {after['nll']:.2f} and calibration error "
        f"from {before['ece']:.1%} to {after['ece']:.1%}."
    )


def seeds(facts: Facts) -> str:
    """Return how many seeds the figures are of, and of a sweep what its seeds say."""
    cell, over = facts.sweep, facts.evaluation.units.interval
    if cell is None:
        return f"One seed of each student; intervals are {over}. Another seed moves a student, too."
    top1, gain = (Interval(**cell[name]).scaled(100) for name in ("top1", "gain"))
    return (
        f"Below is one seed, with intervals {over}. Over {cell['num_seeds']} seeds the student has "
        f"{top1.mean:.1f}% ({top1.bounds('{:.1f}')}), {gain.mean:+.1f} points over labels alone "
        f"({gain.bounds('{:+.1f}')}): {cell['interval']}."
    )


def next_steps(facts: Facts) -> list[tuple[str, str]]:
    """Return what to do next, and the command for it."""
    config, student = facts.config, facts.models[-1].run.value
    if student is None:
        return [("Do what is missing", "python jobs/distill.py CONFIG")]
    file = f"{student.get('selection', 'last')}.safetensors"  # older results name none
    weights = shlex.quote(join_uri(config.artefacts, "runs", student["name"], file))
    steps = [
        ("Ask the student about a video", f"python jobs/predict.py {weights} VIDEO"),
        ("Write it for a device", f"python jobs/export_student.py CONFIG --weights {weights}"),
        ("See every run", shown_by(config.tracking_uri)),
    ]
    if facts.sweep is None and config.loss.distill_weight:
        weight, temperature = config.loss.distill_weight, config.loss.temperature
        grid = f"'sweep.distill_weights=[0,{weight:g}]' 'sweep.temperatures=[{temperature:g}]'"
        command = f"python jobs/sweep.py CONFIG {grid} 'sweep.seeds=[0,1,2,3,4]' 'sweep.kinds=[]'"
        steps.insert(0, ("Find out how sure the gain is: five seeds", command))
    return steps


def _scores(facts: Facts) -> dict[str, dict[str, Any]]:
    """Return the metrics of the networks that have any, by role."""
    scores: dict[str, dict[str, Any]] = facts.evaluation.summary["networks"]
    return scores


def _accuracy(facts: Facts) -> dict[str, Any]:
    """Place top-1 of each network with its interval on one scale, in percent of its length."""
    scores, chance = _scores(facts), 1 / num_classes_of(facts.config)
    top1 = {role: Interval(it["top1"], *it["top1_interval"]) for role, it in scores.items()}
    floor = min([chance, *(it.mean if it.low is None else it.low for it in top1.values())])
    tenths = math.floor(10 * floor)

    def at(value: float | None) -> Any:
        return value and round(100 * (10 * value - tenths) / (10 - tenths), 1)

    return {
        "chance": at(chance),
        "ticks": [(at(n / 10), f"{n / 10:.0%}") for n in range(10, tenths - 1, -2)],
        "rows": {role: (it, Interval(*map(at, it))) for role, it in top1.items()},
    }


def _comparison(facts: Facts) -> dict[str, Any]:
    """Return the titles of the columns, and the cells of each role."""
    scores = _scores(facts)
    cells: dict[str, list[dict[str, Any]]] = {model.role: [] for model in facts.models}
    for name, _, form, best_of in COLUMNS:
        values = {role: metrics[name] for role, metrics in scores.items() if name in metrics}
        best = best_of(values.values()) if len(values) > 1 else None
        for role, row in cells.items():
            value, below = values.get(role), ""
            if name == "top1" and value is not None:
                interval = Interval(value, *scores[role]["top1_interval"])
                below = interval.scaled(100).bounds("{:.1f}")
            text = "-" if value is None else form.format(value)
            row.append({"text": text, "best": value is not None and value == best, "below": below})
    return {"header": [title for _, title, _, _ in COLUMNS], **cells}


def _curves(facts: Facts, name: str) -> str:
    points_of = {
        model.role: points
        for model in facts.models
        if model.curves.value and len(points := model.curves.value[name]) > 1
    }
    return _image(curves_figure(points_of, percent="top1" in name)) if points_of else ""


def _image(figure: Figure) -> str:
    """Return a figure as a data URI. Its background is left to the page, which may be dark."""
    png = base64.b64encode(figure_png(figure, transparent=True)).decode()
    return f"data:image/png;base64,{png}"
