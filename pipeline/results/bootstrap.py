"""Bootstrap intervals of a mean over videos, and of a difference of networks on the same videos.

Videos are drawn again with replacement. A difference is taken video by video, so the draws are
paired. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 13
(percentile intervals) and 16.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
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


def bootstrap_interval(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return the mean of a number per video with its interval.

    Args:
        values: ``(N,)``, N above 0, such as the differences of two networks.
        seed: seed of the resampling.

    Raises:
        ValueError: if there is no value, or one is not finite.

    """
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected finite values (N,) with N above 0, got shape {values.shape}")
    random, num_videos = np.random.default_rng(seed), len(values)
    block = max(1, _BLOCK_CELLS // num_videos)
    means = [
        values[random.integers(num_videos, size=(min(block, left), num_videos))].mean(axis=1)
        for left in range(NUM_RESAMPLES, 0, -block)
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))
