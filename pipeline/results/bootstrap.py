"""Bootstrap intervals of a mean over videos, and of a difference of networks on the same videos.

Clips of one recording are not independent, so whole groups are drawn again with replacement where
groups are known; a mean is then a ratio of two sums, since groups differ in size. A difference is
taken video by video, so the draws are paired. Sources: Efron and Tibshirani, An Introduction to the
Bootstrap (1993), chapters 8, 13 and 16; Hesterberg, What Teachers Should Know About the Bootstrap
(arXiv 1411.5279), section 4.4, for the expanded percentiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
FEW_UNITS = 20  # intervals over fewer are too narrow
_BLOCK_CELLS = 2_000_000  # most values in memory at once


class Interval(NamedTuple):
    """A mean over videos and the bounds of its 95 % percentile interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Units:
    """The units of resampling; ``unit_of`` is the number of each video's unit, int64 ``(N,)``."""

    name: str  # groups or videos
    unit_of: NDArray[np.int64]

    @property
    def num_units(self) -> int:
        return len(np.unique(self.unit_of))

    @property
    def note(self) -> str:
        """A sentence on what the intervals leave out; empty if they hold."""
        sentences = []
        if self.name == "videos":
            sentences.append(
                "The groups of some videos are not known (dataset.groups), so every video counts "
                "as independent: with several clips of one recording the intervals are too narrow."
            )
        if self.num_units < FEW_UNITS:
            sentences.append(f"{self} are few: intervals over under {FEW_UNITS} are too narrow.")
        return " ".join(sentences)

    def __str__(self) -> str:
        return f"{self.num_units} {self.name}"

    def as_values(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {"confidence": CONFIDENCE, "unit": self.name, "num_units": self.num_units}
        return values | {"note": self.note}


def units_of(groups: Sequence[str]) -> Units:
    """Return groups as units if every video's is known (not empty), else the videos themselves."""
    if all(groups):
        return Units("groups", np.unique(groups, return_inverse=True)[1].astype(np.int64))
    return Units("videos", np.arange(len(groups), dtype=np.int64))


def bootstrap_interval(values: NDArray[np.float64], units: Units, *, seed: int = 0) -> Interval:
    """Return the interval of one number per video; see ``bootstrap_intervals``."""
    return bootstrap_intervals(values[None], units, seed=seed)[0]


def bootstrap_intervals(
    values: NDArray[np.float64], units: Units, *, seed: int = 0
) -> list[Interval]:
    """Return the means of M numbers per video with their intervals, from the same draws.

    Args:
        values: ``(M, N)``, N above 0, such as the differences of two networks.
        units: of the same N videos.
        seed: seed of the resampling.

    Raises:
        ValueError: if there is no value, or one is not finite.
    """
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected finite values (M, N) with N above 0, got shape {values.shape}")
    random, num_units = np.random.default_rng(seed), units.num_units
    sums = np.array([np.bincount(units.unit_of, row) for row in values]).T  # (units, M)
    sizes = np.bincount(units.unit_of)
    block = max(1, _BLOCK_CELLS // num_units)
    means = []
    for left in range(NUM_RESAMPLES, 0, -block):
        drawn = random.integers(num_units, size=(min(block, left), num_units))
        offsets = num_units * np.arange(len(drawn))[:, None]
        flat = np.bincount((drawn + offsets).ravel(), minlength=drawn.size)
        times = flat.reshape(drawn.shape).astype(np.float64)  # how often each unit was drawn
        means.append((times @ sums) / (times @ sizes)[:, None])
    tail = 100 * _tail(num_units)
    bounds = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0)
    return [
        Interval(float(row.mean()), float(low), float(high))
        for row, low, high in zip(values, *bounds, strict=True)
    ]


def _tail(num_units: int) -> float:
    """Return the share of resamples below an interval.

    A resample of n units varies less than n new units would, by what Student's t and n / (n - 1)
    say; the percentiles are moved outwards by that.
    """
    from scipy import stats

    if num_units < 2:
        return 0.0
    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, num_units - 1)
    return float(stats.norm.cdf(quantile * math.sqrt(num_units / (num_units - 1))))
