"""The order of the clips of a training run, as arithmetic: position -> (epoch, row).

A run is one long sequence of positions; an optimiser step takes the next ``global_batch_size`` of
them and worker r the r-th part of those. So the order is the same for any number of workers with
equal global batch, and a run resumes from a single integer, its step. A batch may cross the end of
an epoch: no video is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Order:
    """The positions of a run over a set of rows.

    ``partner`` names the row that a row is mixed with in a pass over the rows. It comes right
    behind, so that a batch holds both and each clip is decoded once.
    """

    rows: tuple[int, ...]
    epochs: int
    clips_per_epoch: int  # over len(rows), an epoch shows rows several times
    global_batch_size: int
    seed: int
    partner: Callable[[int, int], int | None] | None = None

    @property
    def num_steps(self) -> int:
        return self.steps_until(self.epochs)

    def steps_until(self, epoch: int) -> int:
        """Return the number of steps after which ``epoch`` epochs are complete."""
        return -(-epoch * self.clips_per_epoch // self.global_batch_size)

    def batch(self, step: int, *, rank: int, num_workers: int) -> list[tuple[int, int]]:
        """Return the (pass over the rows, row) pairs of one worker's part of a step."""
        part, rest = divmod(self.global_batch_size, num_workers)
        assert rest == 0, f"{num_workers} workers cannot share {self.global_batch_size} clips"
        first = step * self.global_batch_size + rank * part
        return [self._at(position) for position in range(first, first + part)]

    def _at(self, position: int) -> tuple[int, int]:
        epoch, index = divmod(position, len(self.rows))
        if self.partner is not None:
            return epoch, _paired(self, epoch)[index]
        return epoch, self.rows[_permutation(self.seed, epoch, len(self.rows))[index]]


@lru_cache(maxsize=2)
def _paired(order: Order, epoch: int) -> list[int]:
    """Return the rows of an epoch, each with its partner behind it."""
    assert order.partner is not None
    rows, waiting = list[int](), set(order.rows)
    for row in (order.rows[i] for i in _permutation(order.seed, epoch, len(order.rows))):
        if row in waiting:
            pair = {row, order.partner(epoch, row)} & waiting
            rows += sorted(pair, key=lambda member: member != row)
            waiting -= pair
    return rows


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> npt.NDArray[np.intp]:
    """Return a permutation keyed by (seed, epoch).

    It sorts raw words of a counter-based generator, because numpy keeps the streams of its bit
    generators and may change ``Generator.permutation``.
    """
    key = np.array([seed % 2**64, epoch], np.uint64)  # as a list, large seeds would become floats
    words = np.random.Philox(key=key).random_raw(count)
    return np.argsort(words, kind="stable")
