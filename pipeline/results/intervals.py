"""95 % intervals of a mean over videos, of one network or of the difference of two.

Videos of one recording are not independent, so the units are groups where these are known. One
network: whole units are drawn again (bootstrap), and a mean is a ratio of two sums, since groups
differ in size. Several seeds on the same videos: the variance of seeds and that of units are added.
Sources: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8, 13 and 16;
Hesterberg (arXiv 1411.5279), section 4.4, for the expanded percentiles; Satterthwaite (1946) for
the degrees of freedom of a sum of variances.
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
    """A mean and the bounds of its 95 % interval.

    The bounds are None where there is one unit, or where no value differs from another: a score of
    100 % on ten videos does not say how far others would move it.
    """

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def bounds(self, form: str) -> str:
        """Write both bounds, each in ``form``."""
        return "-" if self.low is None else f"{form.format(self.low)} to {form.format(self.high)}"

    def scaled(self, factor: float) -> Interval:
        bounds = (None if end is None else factor * end for end in self[1:])
        return Interval(factor * self.mean, *bounds)


@dataclass(frozen=True)
class Units:
    """The units of resampling; ``unit_of`` is the number of each video's unit, int64 ``(N,)``."""

    name: str  # group or video
    unit_of: NDArray[np.int64]

    @property
    def num_units(self) -> int:
        return len(np.unique(self.unit_of))

    @property
    def interval(self) -> str:
        """The kind of every interval, in words."""
        if self.num_units == 1:
            return f"{self}: no interval"
        return f"{100 * CONFIDENCE:.0f} % over {self}"

    @property
    def note(self) -> str:
        """A sentence on what the intervals leave out; empty if they hold."""
        sentences = []
        if self.name == "video":
            sentences.append(
                "The groups of some videos are not known (dataset.groups), so every video counts "
                "as independent: with several videos of one recording the intervals are too narrow."
            )
        if 1 < self.num_units < FEW_UNITS:
            sentences.append(f"{self} are few: intervals over under {FEW_UNITS} are too narrow.")
        return " ".join(sentences)

    def __str__(self) -> str:
        return f"{self.num_units} {self.name}{'s' if self.num_units != 1 else ''}"

    def as_values(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {"confidence": CONFIDENCE, "unit": f"{self.name}s", "num_units": self.num_units}
        return values | {"note": self.note}


def units_of(groups: Sequence[str]) -> Units:
    """Return groups as units if every video's is known (not empty), else the videos themselves."""
    if all(groups):
        return Units("group", np.unique(groups, return_inverse=True)[1].astype(np.int64))
    return Units("video", np.arange(len(groups), dtype=np.int64))


def bootstrap_interval(values: NDArray[np.float64], units: Units, *, seed: int = 0) -> Interval:
    """Return the mean of a number per video, ``(N,)``, such as a difference, with its interval.

    ``seed`` is that of the resampling. ValueError if there is no value, or one is not finite.
    """
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"expected finite values (N,) with N above 0, got shape {values.shape}")
    random, num_units, mean = np.random.default_rng(seed), units.num_units, float(values.mean())
    if num_units < 2 or values.min() == values.max():
        return Interval(mean)
    sums, sizes = np.bincount(units.unit_of, values), np.bincount(units.unit_of)
    block = max(1, _BLOCK_CELLS // num_units)
    means = []
    for left in range(NUM_RESAMPLES, 0, -block):
        drawn = random.integers(num_units, size=(min(block, left), num_units))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = 100 * _tail(num_units)
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(mean, float(low), float(high))


def _tail(num_units: int) -> float:
    """Return the share of resamples below an interval.

    A resample of n units varies less than n new units would. Student's t and n / (n - 1) say by how
    much, and the percentiles are moved outwards accordingly.
    """
    from scipy import stats

    quantile = stats.t.ppf((1 - CONFIDENCE) / 2, num_units - 1)
    return float(stats.norm.cdf(quantile * math.sqrt(num_units / (num_units - 1))))


def seeds_interval(values: NDArray[np.float64], units: Units) -> Interval:
    """Return the mean over S seeds on the same N videos, with its t interval over both.

    It says how far other seeds *and* other units would move the mean. One seed leaves the interval
    over units, one unit that over seeds; there is none for one of each.

    Args:
        values: ``(S, N)``, a number for each seed and video.
        units: of the same N videos.
    """
    from scipy import stats

    sizes = np.bincount(units.unit_of)
    sums = np.array([np.bincount(units.unit_of, row) for row in values])  # (S, units)
    mean = float(values.mean())
    moved = (sums - mean * sizes) / sizes.mean()  # by each cell, as the ratio's first derivative
    num_seeds, num_units = moved.shape
    free = np.array([num_seeds - 1, num_units - 1])
    parts = np.array([np.square(moved.mean(axis=axis)).sum() for axis in (1, 0)])
    parts /= np.maximum(free, 1) * moved.shape  # variances of the mean: by seeds, by units
    if not free.any():
        return Interval(mean)
    cells = moved - moved.mean(axis=1, keepdims=True) - moved.mean(axis=0)
    both = np.square(cells).sum() / (max(free.prod(), 1) * cells.size)  # counted in each of them
    variance = max(parts.max(), parts.sum() - both)
    if not variance:
        return Interval(mean)
    freedom = variance**2 / (np.square(parts) / np.maximum(free, 1)).sum()
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half)
