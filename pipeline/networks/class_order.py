"""The rows of a network's head, put in the class order of a data set.

A head is a table of one row a class, and a file of weights need not say which. A wrong order is a
confidently wrong target for each video of the classes that changed places, so it is never assumed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

HEAD = ("head.weight", "head.bias")


def head_rows(head: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return for each wanted class the row of the head that stands for it.

    Names are compared as they are spelt, and else without case, blanks, ``_`` and ``-``. The wanted
    ones, of the data set, may be fewer.

    Raises:
        ValueError: naming every class that the head lacks, or that two names could mean.
    """
    if len(set(head)) < len(head):
        twice = sorted({name for name in head if head.count(name) > 1})
        raise ValueError(f"classes of the head named twice: {', '.join(map(repr, twice))}")
    exact = {name: row for row, name in enumerate(head)}
    alike: dict[str, list[int]] = {}
    for row, name in enumerate(head):
        alike.setdefault(_folded(name), []).append(row)
    found = {
        name: [exact[name]] if name in exact else alike.get(_folded(name), []) for name in wanted
    }
    if missing := [name for name, rows in found.items() if not rows]:
        nearest = {name: difflib.get_close_matches(name, head, n=1) for name in missing[:10]}
        named = ", ".join(
            f"{name!r} (nearest: {close[0]!r})" if close else repr(name)
            for name, close in nearest.items()
        )
        raise ValueError(
            f"{len(missing)} of the {len(wanted)} classes of the data set are not among the "
            f"{len(head)} of the head: {named}{' ...' if len(missing) > 10 else ''}"
        )
    rows = [row for several in found.values() for row in several]
    if twice := sorted({head[row] for row in rows if rows.count(row) > 1}):
        raise ValueError(f"several classes of the data set could be {', '.join(map(repr, twice))}")
    if unclear := [name for name, several in found.items() if len(several) > 1]:
        raise ValueError(f"several classes of the head could be {', '.join(map(repr, unclear))}")
    return rows


def in_order(
    state: Mapping[str, Tensor], head: Sequence[str], wanted: Sequence[str]
) -> dict[str, Tensor]:
    """Return a state dict whose head has the wanted classes, in their order.

    A head that is in order already is left as it is, tensor by tensor.

    Raises:
        ValueError: if ``head`` does not name each row of the state's head, or lacks a class.
    """
    rows, count = head_rows(head, wanted), len(state.get("head.weight", head))
    if count != len(head):
        raise ValueError(f"its head has {count} classes, and {len(head)} are named for it")
    if rows == list(range(count)):
        return dict(state)
    return {name: tensor[rows] if name in HEAD else tensor for name, tensor in state.items()}


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.casefold())
