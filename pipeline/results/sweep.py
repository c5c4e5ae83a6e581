"""Results of a sweep: cells with intervals, as a table, a CSV and a heat map.

An interval says how far other seeds and other videos would move the mean. The best of many cells is
also the luckiest one, so that its mean is too high.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import DistillKind
from pipeline.results.figures import DPI, QUIET
from pipeline.results.intervals import CONFIDENCE, Interval, Units, seeds_interval, units_of
from pipeline.text_table import csv_table, text_table
from pipeline.training.sweep import Point, kinds_of, point_at

BASELINE_WEIGHT = 0.0  # VFL-Net: labels alone
CSV_METRICS = ("top1", "top5", "nll", "ece", "agreement", "kl_to_teacher")


@dataclass(frozen=True)
class Outcome:
    """The end of a trial.

    ``metrics`` are those of val after the last epoch, without prefix; ``answers`` are what
    ``answers_by_video`` returns, and empty in results of versions that did not keep them.
    """

    name: str
    distill_weight: float
    temperature: float
    seed: int
    state: Literal["finished", "failed"]
    epoch: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    answers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    reason: str = ""  # of a failure
    run_id: str | None = None  # MLflow's
    kind: DistillKind = "forward_kl"  # of distill loss

    @property
    def point(self) -> Point:
        return Point(self.distill_weight, self.temperature, self.kind)


@dataclass(frozen=True)
class Cell:
    """A point of the grid, over the seeds that were trained to the end."""

    point: Point
    num_seeds: int
    top1: Interval
    nll: Interval
    ece: float  # without interval: it is no mean over videos
    gain: Interval | None  # of top-1 over labels alone, seed by seed; none without that baseline


@dataclass(frozen=True)
class SweepResult:
    """The outcomes of all trials on the same videos of val, with the units of these."""

    outcomes: Sequence[Outcome]
    val_units: Units

    @property
    def _finished(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == "finished"]

    @cached_property
    def _units(self) -> Units | None:
        """The units of intervals beside the seeds; None if a trial kept no answers by video."""
        return self.val_units if all(trial.answers for trial in self._finished) else None

    @property
    def interval(self) -> str:
        """The kind of every interval, in words."""
        over = "n seeds only" if self._units is None else f"n seeds and {self._units}"
        return f"{100 * CONFIDENCE:.0f} % over {over}"

    @cached_property
    def cells(self) -> dict[Point, Cell]:
        by_point: dict[Point, dict[int, Outcome]] = {}
        for outcome in self._finished:
            by_point.setdefault(outcome.point, {})[outcome.seed] = outcome
        baseline = next((t for p, t in by_point.items() if p.distill_weight == BASELINE_WEIGHT), {})
        return {point: self._cell(by_point[point], baseline) for point in sorted(by_point)}

    @property
    def best(self) -> Cell | None:
        """The cell with the highest mean top-1; of equal ones that with the lower NLL."""
        cells = self.cells.values()
        return max(cells, key=lambda cell: (cell.top1.mean, -cell.nll.mean), default=None)

    @property
    def best_is_sure(self) -> bool:
        """Whether no other cell's interval reaches that of the best one."""
        if self.best is None or (low := self.best.top1.low) is None:
            return False
        others = [cell.top1.high for cell in self.cells.values() if cell != self.best]
        return all(high is not None and high < low for high in others)

    @property
    def table(self) -> str:
        """Cells as aligned text, the best one marked, and the names of failed trials."""
        scores = ("top-1", "NLL", "ECE", "gain over labels (points)")
        header = ("", "loss", "weight", "T", "n", *scores)
        rows = [_row(cell, best=cell is self.best) for cell in self.cells.values()]
        lines = [text_table([header, *rows], align=">"), f"±: {self.interval}, of the last epoch"]
        if self._units is not None:
            lines += filter(None, [self._units.note])
        failed = [outcome for outcome in self.outcomes if outcome.state == "failed"]
        if failed:
            lines.append(f"{len(failed)} of {len(self.outcomes)} trials failed:")
            lines += [f"  {trial.name}: {trial.reason.splitlines()[0]}" for trial in failed]
        return "\n".join(lines)

    @property
    def csv(self) -> str:
        """A line for each trial."""
        names = ("kind", "distill_weight", "temperature", "seed", "state", "epoch", "seconds")
        columns = ("name", *names, *CSV_METRICS, "reason")
        values = ({**outcome.metrics, **vars(outcome)} for outcome in self.outcomes)
        return csv_table(columns, ([of.get(name, "") for name in columns] for of in values))

    def as_values(self) -> dict[str, Any]:
        """Return trials, cells and the best cell as plain JSON values."""
        return {
            "trials": [asdict(outcome) for outcome in self.outcomes],
            "cells": [_cell_values(cell) for cell in self.cells.values()],
            "best": None if self.best is None else _cell_values(self.best),
            "interval": self.interval,
        }

    def _cell(self, trials: Mapping[int, Outcome], baseline: Mapping[int, Outcome]) -> Cell:
        units = self._units or units_of(["all of val"])
        seeds = [seed for seed in trials if seed in baseline]
        (point, *_) = (trial.point for trial in trials.values())
        gain = None
        if seeds and point.distill_weight != BASELINE_WEIGHT:
            ours, theirs = (
                self._by_video([of[seed] for seed in seeds], "top1") for of in (trials, baseline)
            )
            gain = seeds_interval(ours - theirs, units)
        top1, nll = (
            seeds_interval(self._by_video(list(trials.values()), name), units)
            for name in ("top1", "nll")
        )
        ece = float(np.mean([trial.metrics["ece"] for trial in trials.values()]))
        return Cell(point, len(trials), top1, nll, ece, gain)

    def _by_video(self, trials: Sequence[Outcome], metric: str) -> NDArray[np.float64]:
        """Return ``(S, N)``, or the means over val, ``(S, 1)``, where answers are not there."""
        if self._units is None:
            return np.array([[trial.metrics[metric]] for trial in trials])
        return np.array([trial.answers[metric] for trial in trials], np.float64)


def answers_by_video(logits: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """Return each video's ``top1`` (0 or 1) and ``nll``, from logits ``(N, K)`` and labels."""
    nll = -logits.double().log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    right = (logits.argmax(dim=1) == labels).int()
    return {"top1": right.tolist(), "nll": [round(value, 6) for value in nll.tolist()]}


def heatmap_figure(config: ExperimentConfig, result: SweepResult) -> Figure:
    """Draw top-1 and NLL over the grid: mean, interval and number of seeds in each cell."""
    num_rows = len(kinds_of(config)) * len(config.sweep.distill_weights)
    num_columns = len(config.sweep.temperatures)
    size = (2 * max(3.2, 1.25 * num_columns) + 1.2, max(2.8, 0.95 * num_rows + 1.4))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _panel(left, config, result, "top1", "Blues")
    _panel(right, config, result, "nll", "Oranges_r")
    title = f"Students from one logit store, ± {result.interval}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _panel(
    axes: Axes,
    config: ExperimentConfig,
    result: SweepResult,
    metric: Literal["top1", "nll"],
    colours: str,
) -> None:
    scale, digits, title = (100, 1, "top-1, %") if metric == "top1" else (1, 2, "NLL, nats")
    sweep, kinds = config.sweep, kinds_of(config)
    grid = {
        f"{kind} {weight:g}" if len(kinds) > 1 else f"{weight:g}": [
            result.cells.get(point_at(config, weight, temp, kind)) for temp in sweep.temperatures
        ]
        for kind in kinds
        for weight in sweep.distill_weights
    }
    cells = list(grid.values())
    means = np.array(
        [[math.nan if c is None else scale * getattr(c, metric).mean for c in row] for row in cells]
    )
    image = axes.imshow(means, cmap=colours, aspect="auto")
    for row, column in np.ndindex(means.shape):
        cell, text, colour = cells[row][column], "-", QUIET
        if cell is not None:
            value = _text(getattr(cell, metric), scale, digits).replace(" ±", "\n±")
            text = f"{value}\nn = {cell.num_seeds}"
            red, green, blue, _ = image.to_rgba(means[row, column])
            dark = 0.299 * red + 0.587 * green + 0.114 * blue <= 0.55
            colour = "white" if dark else "black"
        best = cell is not None and cell is result.best and result.best_is_sure
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5}
        axes.text(column, row, text, weight="bold" if best else "normal", color=colour, **style)
    axes.set_xticks(range(means.shape[1]), [f"{value:g}" for value in sweep.temperatures])
    axes.set_yticks(range(means.shape[0]), list(grid))
    axes.set_xlabel("loss.temperature")
    axes.set_ylabel("loss.distill_weight")
    axes.set_title(title, loc="left", fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell_values(cell: Cell) -> dict[str, Any]:
    intervals = {"top1": cell.top1, "nll": cell.nll, "gain": cell.gain}
    values = cell.point._asdict() | {"num_seeds": cell.num_seeds, "ece": cell.ece}
    return values | {name: it and it._asdict() for name, it in intervals.items()}


def _row(cell: Cell, *, best: bool) -> tuple[str, ...]:
    weight, temperature, kind = cell.point
    return (
        "best" if best else "",
        kind if weight else "any",
        f"{weight:g}",
        f"{temperature:g}" if weight else "any",
        str(cell.num_seeds),
        _text(cell.top1, 100, 1),
        _text(cell.nll, 1, 3),
        f"{100 * cell.ece:.1f}",
        "-" if cell.gain is None else _text(cell.gain, 100, 1, sign="+"),
    )


def _text(value: Interval, scale: float, digits: int, sign: str = "") -> str:
    mean = f"{scale * value.mean:{sign}.{digits}f}"
    if value.high is None:
        return mean
    return f"{mean} ± {scale * (value.high - value.mean):.{digits}f}"
