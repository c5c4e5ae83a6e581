"""Tables as text: aligned, plain or in Markdown, and CSV.

``align`` has a sign a column, as in format specifications: ``<`` for words, ``>`` for numbers. The
last sign holds for all columns that follow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

Row = Sequence[str]


def text_table(rows: Iterable[Row], *, align: str = "<>") -> str:
    """Lay rows out in columns of equal width, two spaces apart."""
    padded, _ = _padded(list(rows), align)
    return "\n".join("  ".join(row).rstrip() for row in padded)


def markdown_table(header: Row, rows: Sequence[Row], *, align: str = "<>") -> str:
    """Lay rows out as a Markdown table that is also readable as it stands."""
    (head, *body), signs = _padded([header, *rows], align)
    rule = [
        "-" * (len(cell) - 1) + ("-" if sign == "<" else ":")
        for cell, sign in zip(head, signs, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def csv_table(header: Row, rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def _padded(rows: Sequence[Row], align: str) -> tuple[list[list[str]], str]:
    """Pad every cell to the width of its column; return a sign for each column, too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    signs = align.ljust(len(widths), align[-1])
    padded = [
        [f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=False)]
        for row in rows
    ]
    return padded, signs
