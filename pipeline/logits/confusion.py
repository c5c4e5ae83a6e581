"""Classes that a teacher calls by the name of another one, as a head in a wrong order does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

NUM_CELLS, MAX_TOP1, MIN_SHARE = 10, 0.05, 0.5  # of a class that another one's name is put to

Called = Counter[tuple[int, int]]  # good cells by (label, class that the teacher puts first)


def num_cells(called: Called) -> Counter[int]:
    """Return the number of good cells of each label."""
    totals = Counter[int]()
    for (label, _), count in called.items():
        totals[label] += count
    return totals


def displaced(called: Called, class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield classes whose top-1 is near zero where most are told apart, with what says so.

    A teacher that was never trained puts one class, or any, to all; it has no displaced classes.
    """
    totals = num_cells(called)
    called_most = {
        label: (other, count / totals[label])
        for (label, other), count in called.items()
        if count > MIN_SHARE * totals[label]
    }
    if 2 * len({other for other, _ in called_most.values()}) <= len(totals):
        return
    for label, (other, share) in sorted(called_most.items()):
        top1 = called[label, label] / totals[label]
        back, back_share = called_most.get(other, (None, 0.0))
        named_already = back == label and other < label
        if totals[label] < NUM_CELLS or top1 > MAX_TOP1 or named_already:
            continue
        swapped = f", and the other way round in {back_share:.0%}" if back == label else ""
        yield (
            class_names[label],
            f"is called {class_names[other]} in {share:.0%} of {totals[label]} cells{swapped}. The "
            f"head's row {other} seems to stand for {class_names[label]}: correct "
            "teacher.class_names, or the labels",
        )
