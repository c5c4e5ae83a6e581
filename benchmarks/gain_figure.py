"""Draw docs/gain.png from docs/results.json: what unlabelled videos give, seed by seed.

python -m benchmarks.gain_figure
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.results.figures import BLUE, DPI, ORANGE, QUIET

DOCS = Path(__file__).parent.parent / "docs"
CACHE, TEACHER = "the whole cache", "teacher"  # rows, by parts of their names


def draw_gain(studies: dict[str, Any]) -> Figure:
    """Draw a panel for each study: a dot a seed, and the mean with its interval."""
    figure = Figure(figsize=(11.0, 3.05), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False)[0]
    for axes, study in zip(panels, studies.values(), strict=True):
        _panel(axes, study)
    return figure


def _panel(axes: Axes, study: dict[str, Any]) -> None:
    axes.set_title(study["title"], fontsize=9.5)
    rows = study["rows"]
    for place, row in enumerate(reversed(rows)):
        name = row["name"]
        colour = BLUE if CACHE in name else ORANGE if TEACHER in name else QUIET
        seeds, mean = row["seeds"], row["top1"]
        axes.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.35, markersize=5)
        bounds = [
            [min(row.get("plus_minus", 0), mean)],
            [min(row.get("plus_minus", 0), 100 - mean)],
        ]
        axes.errorbar(mean, place, xerr=bounds, fmt="D", color=colour, markersize=6, capsize=3)
        axes.annotate(
            f"{mean:.1f}",
            (mean, place),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)], fontsize=9)
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_xlim(20, 101)
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    sizes = ", ".join(
        f"{name} {cost['megabytes']} MB, {cost['milliseconds']} ms a clip"
        for name, cost in study["costs"]["networks"].items()
    )
    axes.set_xlabel(f"top-1; ±: {study['interval']}\n{sizes}", fontsize=8.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)


if __name__ == "__main__":
    results = json.loads((DOCS / "results.json").read_text())
    results.pop("study")  # of docs/study.md
    draw_gain(results).savefig(DOCS / "gain.png", bbox_inches="tight")  # titles are wide
    print(DOCS / "gain.png")
