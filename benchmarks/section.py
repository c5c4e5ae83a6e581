"""What a benchmark prints: one section of the report, in Markdown, and its progress."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_section(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], text: str
) -> None:
    """Print a heading, one table and a sentence or two on how to read it."""
    print(f"## {title}\n")
    print(_line(columns))
    print(_line(["---"] * len(columns)))
    for row in rows:
        print(_line([_cell(value) for value in row]))
    print(f"\n{text}")


def say(progress: str) -> None:
    """Tell whoever waits how far a benchmark is; stdout is for the section."""
    print(progress, file=sys.stderr, flush=True)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    """Write a number with three digits that count, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
