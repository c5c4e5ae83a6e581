"""Parts that benchmarks share: options, the section that one prints, and its progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from pipeline.text_table import markdown_table


def options(doc: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def print_section(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], text: str
) -> None:
    """Print a heading, one table and a sentence or two on how to read it."""
    cells = [[_cell(value) for value in row] for row in rows]
    print(f"## {title}\n\n{markdown_table(columns, cells, align='<>')}\n\n{text}")


def say(progress: str) -> None:
    """Print progress to standard error; standard output is for the section."""
    print(progress, file=sys.stderr, flush=True)


def _cell(value: object) -> str:
    """Write a number with three digits that count, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
