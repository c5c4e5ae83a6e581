"""Results of a sweep: cells with intervals, as a table, a CSV and a heat map.

An interval is Student's t over the seeds, at 95 %. It tells how far other seeds would move the
mean; val is the same for all of them, so it tells nothing about other videos. The best of many
cells is also the luckiest one, so that its mean is too high.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.config.schema import ExperimentConfig
from pipeline.results.figures import DPI, QUIET
from pipeline.text_table import text_table
from pipeline.training.sweep import Point, point_at

CONFIDENCE = 0.95
# A trial keeps no answer to a single video, so there is nothing to draw groups or videos from.
INTERVAL = (
    f"{100 * CONFIDENCE:.0f} % over n seeds only, Student's t; all see the same videos of val"
)
BASELINE_WEIGHT = 0.0  # VFL-Net: labels alone
CSV_METRICS = ("top1", "top5", "nll", "ece", "agreement", "kl_to_teacher")


@dataclass(frozen=True)
class Outcome:
    """The end of a trial; ``metrics`` are those of val after the last epoch, without prefix."""

    name: str
    distill_weight: float
    temperature: float
    seed: int
    state: Literal["finished", "failed"]
    epoch: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""  # of a failure
    run_id: str | None = None  # MLflow's

    @property
    def point(self) -> Point:
        return Point(self.distill_weight, self.temperature)


class Estimate(NamedTuple):
    """A mean over seeds, with the half width of its interval (None for a single seed)."""

    mean: float
    half_width: float | None
    num_seeds: int


@dataclass(frozen=True)
class Cell:
    """A point of the grid, over the seeds that were trained to the end."""

    point: Point
    top1: Estimate
    nll: Estimate
    ece: Estimate
    gain: Estimate | None  # of top-1 over labels alone, seed by seed; none without that baseline


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean with the half width of its t interval."""
    from scipy import stats

    num_seeds, mean = len(values), float(np.mean(values))
    if num_seeds < 2:
        return Estimate(mean, None, num_seeds)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_seeds - 1))
    return Estimate(
        mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(num_seeds), num_seeds
    )


def cells_of(outcomes: Iterable[Outcome]) -> dict[Point, Cell]:
    """Gather the finished trials by point."""
    by_point: dict[Point, dict[int, Mapping[str, float]]] = {}
    for outcome in outcomes:
        if outcome.state == "finished":
            by_point.setdefault(outcome.point, {})[outcome.seed] = outcome.metrics
    baseline = next((m for p, m in by_point.items() if p.distill_weight == BASELINE_WEIGHT), {})
    return {point: _cell(point, by_point[point], baseline) for point in sorted(by_point)}


def best_cell(cells: Mapping[Point, Cell]) -> Cell | None:
    """Return the cell with the highest mean top-1; of equal ones that with the lower NLL."""
    return max(cells.values(), key=lambda cell: (cell.top1.mean, -cell.nll.mean), default=None)


def sweep_table(outcomes: Sequence[Outcome]) -> str:
    """Lay the cells out as aligned text, mark the best one, and name the failed trials."""
    cells = cells_of(outcomes)
    best = best_cell(cells)
    header = ("", "weight", "T", "n", "top-1", "NLL", "ECE", "gain over labels (points)")
    rows = [_row(cell, best=cell is best) for cell in cells.values()]
    lines = [text_table([header, *rows], align=">"), f"±: {INTERVAL}; scores of the last epoch"]
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    if failed:
        lines.append(f"{len(failed)} of {len(outcomes)} trials failed:")
        lines += [f"  {trial.name}: {trial.reason.splitlines()[0]}" for trial in failed]
    return "\n".join(lines)


def sweep_csv(outcomes: Iterable[Outcome]) -> str:
    """Write one CSV line for each trial."""
    buffer = io.StringIO()
    names = ("name", "distill_weight", "temperature", "seed", "state", "epoch", "seconds")
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow([*names, *CSV_METRICS, "reason"])
    for outcome in outcomes:
        values = asdict(outcome)
        metrics = [outcome.metrics.get(name, "") for name in CSV_METRICS]
        table.writerow([*(values[name] for name in names), *metrics, outcome.reason])
    return buffer.getvalue()


def sweep_values(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return trials, cells and the best cell as plain JSON values."""
    cells = cells_of(outcomes)
    best = best_cell(cells)
    return {
        "trials": [asdict(outcome) for outcome in outcomes],
        "cells": [_cell_values(cell) for cell in cells.values()],
        "best": None if best is None else _cell_values(best),
        "interval": INTERVAL,
    }


def heatmap_figure(config: ExperimentConfig, outcomes: Sequence[Outcome]) -> Figure:
    """Draw top-1 and NLL over the grid: mean, interval and number of seeds in each cell."""
    sweep, cells = config.sweep, cells_of(outcomes)
    best = best_cell(cells)
    num_rows, num_columns = len(sweep.distill_weights), len(sweep.temperatures)
    size = (2 * max(3.2, 1.25 * num_columns) + 1.2, max(2.8, 0.95 * num_rows + 1.4))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 2, squeeze=False)[0]
    _panel(panels[0], config, cells, best, "top1", "Blues")
    _panel(panels[1], config, cells, best, "nll", "Oranges_r")
    seeds = len(sweep.seeds)
    figure.suptitle(
        f"Students from one logit store, {seeds} seed{'s' if seeds > 1 else ''} a cell, "
        f"± {100 * CONFIDENCE:.0f} % over seeds only",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return figure


def _cell(
    point: Point,
    metrics_of: Mapping[int, Mapping[str, float]],
    baseline: Mapping[int, Mapping[str, float]],
) -> Cell:
    def over_seeds(name: str) -> Estimate:
        return estimate([metrics[name] for metrics in metrics_of.values()])

    paired = [
        metrics["top1"] - baseline[seed]["top1"]
        for seed, metrics in metrics_of.items()
        if seed in baseline
    ]
    distilled = point.distill_weight != BASELINE_WEIGHT
    gain = estimate(paired) if paired and distilled else None
    return Cell(point, over_seeds("top1"), over_seeds("nll"), over_seeds("ece"), gain)


def _cell_values(cell: Cell) -> dict[str, Any]:
    estimates = {"top1": cell.top1, "nll": cell.nll, "ece": cell.ece, "gain": cell.gain}
    return asdict(cell.point) | {
        name: None if value is None else value._asdict() for name, value in estimates.items()
    }


def _row(cell: Cell, *, best: bool) -> tuple[str, ...]:
    weight, temperature = cell.point.distill_weight, cell.point.temperature
    return (
        "best" if best else "",
        f"{weight:g}",
        f"{temperature:g}" if weight else "any",
        str(cell.top1.num_seeds),
        _text(cell.top1, 100, 1),
        _text(cell.nll, 1, 3),
        _text(cell.ece, 100, 1),
        "-" if cell.gain is None else _text(cell.gain, 100, 1, sign="+"),
    )


def _text(value: Estimate, scale: float, digits: int, sign: str = "") -> str:
    mean = f"{scale * value.mean:{sign}.{digits}f}"
    if value.half_width is None:
        return mean
    return f"{mean} ± {scale * value.half_width:.{digits}f}"


def _panel(
    axes: Axes,
    config: ExperimentConfig,
    cells: Mapping[Point, Cell],
    best: Cell | None,
    metric: Literal["top1", "nll"],
    colours: str,
) -> None:
    scale, digits, title = (100, 1, "top-1, %") if metric == "top1" else (1, 2, "NLL, nats")
    sweep = config.sweep
    grid = [
        [cells.get(point_at(config, weight, temperature)) for temperature in sweep.temperatures]
        for weight in sweep.distill_weights
    ]
    means = np.array(
        [[math.nan if c is None else scale * getattr(c, metric).mean for c in row] for row in grid]
    )
    image = axes.imshow(means, cmap=colours, aspect="auto")
    for row, column in np.ndindex(means.shape):
        cell = grid[row][column]
        text = "-" if cell is None else _cell_text(getattr(cell, metric), scale, digits)
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=8.5,
            weight="bold" if cell is not None and cell is best else "normal",
            color=QUIET if cell is None else _ink(image.to_rgba(means[row, column])),
        )
    axes.set_xticks(range(means.shape[1]), [f"{value:g}" for value in sweep.temperatures])
    axes.set_yticks(range(means.shape[0]), [f"{value:g}" for value in sweep.distill_weights])
    axes.set_xlabel("loss.temperature")
    axes.set_ylabel("loss.distill_weight")
    axes.set_title(title, loc="left", fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _cell_text(value: Estimate, scale: float, digits: int) -> str:
    half = "" if value.half_width is None else f"\n± {scale * value.half_width:.{digits}f}"
    return f"{scale * value.mean:.{digits}f}{half}\nn = {value.num_seeds}"


def _ink(rgba: NDArray[np.float64] | tuple[float, ...]) -> str:
    """Return black or white, the one that is easier to read on a colour."""
    red, green, blue = rgba[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"
