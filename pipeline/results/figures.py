"""Figures and tables of results, from plain arrays.

Figures are built without pyplot, whose figures are global and belong to one thread.
Letters: K classes, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from dvflnet.metrics import CalibrationBins
from pipeline.results.intervals import Interval
from pipeline.text_table import csv_table, text_table
from pipeline.tracking.progress import duration

BLUE, ORANGE = "#0072b2", "#d55e00"  # colour-blind people tell them apart, too
RIGHT, WRONG, QUIET = "#00704f", "#b3261e", "#767676"
SERIES = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9")  # of Okabe and Ito; a marker each, too
COLOURS = {"student": BLUE, "teacher": ORANGE, "baseline": QUIET}
MAX_NUMBERED_CLASSES = 25  # a confusion matrix of more has colours only
SHEET_COLUMNS = 4
FRAMES_SHOWN = 3
FRAME_GAP = 4  # white pixels
MIN_IN_BIN = 20  # videos behind a point of a reliability diagram
DPI = 120


@dataclass(frozen=True)
class ShownVideo:
    """A video of the sample sheet."""

    frames: NDArray[np.uint8]  # (T, H, W, 3)
    class_name: str  # the true one
    predictions: Mapping[str, tuple[str, float]]  # role -> class and probability


def confusion_figure(confusion: NDArray[np.int64], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: right answers in blue, mistakes in orange.

    ``confusion`` is ``(K, K)``, videos by true class (rows) and predicted class (columns).
    """
    num_classes = len(class_names)
    side = float(np.clip(0.14 * num_classes + 3.0, 4.0, 18.0))
    font_size = float(np.clip(260 / num_classes, 5.5, 10.0))
    figure = Figure(figsize=(side, side), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    colours = np.where(np.eye(num_classes, dtype=bool)[..., None], to_rgb(BLUE), to_rgb(ORANGE))
    opacity = np.where(confusion, 0.15 + 0.85 * shares, 0.0)
    axes.imshow(np.dstack([colours, opacity]))
    correct, total = int(confusion.trace()), int(confusion.sum())
    share = f"{correct / max(total, 1):.1%}"
    # Everything that is written is grey, so that it can be read on white and on black.
    axes.set_title(f"{correct} of {total} videos right ({share})", loc="left", color=QUIET)
    axes.set_xlabel("predicted class", color=QUIET)
    axes.set_ylabel("true class", color=QUIET)
    axes.set_xticks(range(num_classes), class_names, rotation=90, fontsize=font_size, color=QUIET)
    axes.set_yticks(range(num_classes), class_names, fontsize=font_size, color=QUIET)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if num_classes <= MAX_NUMBERED_CLASSES:
        for true, predicted in np.argwhere(confusion):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": font_size}
            colour = "white" if shares[true, predicted] > 0.5 else QUIET
            axes.text(predicted, true, str(confusion[true, predicted]), color=colour, **style)
    return figure


def per_class_table(confusion: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Write a line a class as CSV, the worst first; ``confusion`` is as in ``confusion_figure``."""
    header = ("class", "label", "num_videos", "num_correct", "top1", "most_confused_with")
    rows = []
    num_videos, num_correct = confusion.sum(axis=1), confusion.diagonal()
    top1 = num_correct / np.maximum(num_videos, 1)
    mistakes = confusion - np.diag(num_correct)
    for label in np.argsort(top1, kind="stable"):
        worst = int(mistakes[label].argmax())
        share = f"{top1[label]:.4f}" if num_videos[label] else ""
        taken_for = class_names[worst] if mistakes[label, worst] else ""
        counts = (num_videos[label], num_correct[label])
        rows.append([class_names[label], label, *counts, share, taken_for])
    return csv_table(header, rows)


def curves_figure(points_of: Mapping[str, Sequence[tuple[int, float]]], *, percent: bool) -> Figure:
    """Draw points (step, value) of runs by role, each from its start to its end."""
    figure = Figure(figsize=(4.2, 2.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for role, points in points_of.items():
        steps, values = np.array(points).T
        axes.plot(steps / steps[-1], values, color=COLOURS[role], linewidth=2)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xticks([0, 0.5, 1], ["start", "half", "end"])
    axes.tick_params(colors=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(QUIET)
    return figure


def reliability_figure(bins_of: Mapping[str, CalibrationBins]) -> Figure:
    """Draw accuracy over confidence by role, and below it the share of videos in each bin.

    A calibrated network lies on the diagonal. A point is the mean of enough videos to mean
    something; the calibration error is that of the single bins.
    """
    figure = Figure(figsize=(5.5, 6.0), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=":")
    width = 0.8 / len(bins_of)
    for number, (role, bins) in enumerate(bins_of.items()):
        num_rows, confidence, correct = map(np.asarray, bins)
        error, num_bins = np.abs(confidence - correct).sum() / num_rows.sum(), len(num_rows)
        points = np.array([part.sum(axis=1) for part in _wide_bins(num_rows, confidence, correct)])
        upper.plot(
            points[:, 1] / points[:, 0],
            points[:, 2] / points[:, 0],
            marker="o",
            color=COLOURS[role],
            label=f"{role}, calibration error {error:.1%}",
        )
        left = (np.arange(num_bins) + 0.1 + number * width) / num_bins
        shares = num_rows / num_rows.sum()
        lower.bar(left, shares, width / num_bins, align="edge", color=COLOURS[role])
    upper.set_ylabel("share of videos that are right")
    upper.legend(loc="upper left", frameon=False)
    lower.set_ylabel("share of videos")
    lower.set_xlabel("confidence in the predicted class")
    for axes in (upper, lower):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
    upper.set_ylim(0, 1.02)
    return figure


def _wide_bins(*values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Cut bins, the first row their numbers of videos, into runs of at least MIN_IN_BIN videos."""
    table = np.array(values)
    start, num_left = 0, table[0].sum()
    for end in range(1, table.shape[1] + 1):
        found = table[0, start:end].sum()
        # What is left behind must not be too few for a point of its own.
        if min(found, num_left - found) >= MIN_IN_BIN:
            yield table[:, start:end]
            start, num_left = end, num_left - found
    yield table[:, start:]


def predictions_figure(videos: Sequence[ShownVideo]) -> Figure:
    """Draw a sheet of videos in their order, each with its true class and the predicted ones."""
    num_rows = -(-len(videos) // SHEET_COLUMNS)
    figure = Figure(figsize=(3.6 * SHEET_COLUMNS, 2.15 * num_rows), dpi=DPI, layout="constrained")
    grid = figure.subplots(num_rows, SHEET_COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, video in zip(grid.flat, videos, strict=False):
        _draw_video(axes, video)
    return figure


def _draw_video(axes: Axes, video: ShownVideo) -> None:
    times = np.linspace(0, len(video.frames) - 1, FRAMES_SHOWN).round().astype(int)
    gap = ((0, 0), (0, 0), (0, FRAME_GAP), (0, 0))
    strip = np.concatenate(list(np.pad(video.frames[times], gap, constant_values=255)), axis=1)
    axes.imshow(strip[:, :-FRAME_GAP])
    lines = [(f"true: {video.class_name}", "black", "bold")]
    for role, (class_name, probability) in video.predictions.items():
        colour = RIGHT if class_name == video.class_name else WRONG
        text = f"{role}: {class_name}  {probability:.0%}"
        lines.append((text, colour, "normal"))
    for number, (text, colour, weight) in enumerate(lines):
        style: dict[str, Any] = {"va": "top", "color": colour, "weight": weight, "fontsize": 9}
        below = (0, -4 - 13 * number)
        axes.annotate(text, (0, 0), below, "axes fraction", "offset points", **style)


def compare_results(
    teacher: dict[str, Any] | None,
    students: Mapping[str, dict[str, Any]],
    evaluation: Mapping[str, Any],
) -> str:
    """Lay the results of training runs out as a table, with the verdict in a sentence.

    ``students`` are by title, VFL-Net first and DVFL-Net last; ``evaluation`` is a summary of them
    all, for its intervals. The teacher's scores are those of the logits that were distilled, from
    the student's run. One that was trained elsewhere has no row.
    """
    (vflnet, *_), (*_, dvflnet) = students.values(), students.values()
    which = dvflnet.get("selection", "last")  # older results name none
    vfl, dvfl = _scores(vflnet, f"{which}/"), _scores(dvflnet, f"{which}/")
    units = "{num_units} {unit}".format(**evaluation["intervals"])
    intervals = {
        name: Interval(scores["top1"], *scores["top1_interval"]).bounds("{:.1%}")
        for name, scores in evaluation["networks"].items()
    }
    header = ("model", "params (M)", "GMAC", "top-1", f"95 % over {units}", "NLL", "ECE")
    of_teacher = _scores(dvflnet, "teacher/")
    rows = [
        (*header, "agreement", "train time"),
        *([_row("teacher", teacher, of_teacher, intervals["teacher"])] if teacher else []),
        *(
            _row(title, result, _scores(result, f"{which}/"), intervals[result["name"]])
            for title, result in students.items()
        ),
    ]
    pair = {"network": dvflnet["name"], "against": vflnet["name"]}
    found = [it["top1"] for it in evaluation["differences"] if pair.items() <= it.items()]
    gain = Interval(**found[0] if found else {"mean": 0.0}).scaled(100)  # none: it is one network
    return "\n".join(
        [
            "",
            text_table(rows),
            "",
            f"Distillation changed the student's top-1 on val by {gain.mean:+.1f} points "
            f"({gain.bounds('{:+.1f}')}, 95 % over {units}), its negative log-likelihood "
            f"from {vfl['nll']:.2f} to {dvfl['nll']:.2f} and its calibration error "
            f"from {vfl['ece']:.1%} to {dvfl['ece']:.1%}. "
            f"These are the weights of each student's {which} epoch (train.selection).",
            f"Compare the runs: {evaluation.get('link', dvflnet['link'])}",  # older ones have none
        ]
    )


def _scores(result: dict[str, Any], prefix: str) -> dict[str, float]:
    metrics = result["metrics"].items()
    return {name.removeprefix(prefix): v for name, v in metrics if name.startswith(prefix)}


def _row(
    name: str, result: dict[str, Any], score: dict[str, float], interval: str
) -> tuple[str, ...]:
    cost = result["metrics"]
    return (
        name,
        f"{cost['model/params_millions']:.3g}",
        f"{cost['model/gmacs']:.3g}",
        f"{score['top1']:.1%}",
        interval,
        f"{score['nll']:.2f}",
        f"{score['ece']:.1%}",
        f"{score['agreement']:.1%}" if "agreement" in score else "-",
        duration(cost["train/seconds"]),
    )
