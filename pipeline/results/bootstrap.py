"""How sure is a mean over videos, and a difference of two networks on the same videos?

The paired bootstrap: videos are drawn again with replacement, and what each video says of both
networks stays together. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993),
chapters 13 (percentile intervals) and 16.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
_BLOCK_CELLS = 2_000_000  # drawn values that are held at once


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

    For the difference of two networks pass the differences, video by video.

    Args:
        values: ``(N,)``, N above 0.
        seed: of the resampling; the same one gives the same interval.

    Raises:
        ValueError: if there is no value, or one is not finite.

    """
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected finite values (N,) with N above 0, got shape {values.shape}")
    random, num_videos = np.random.default_rng(seed), len(values)
    block = max(1, _BLOCK_CELLS // num_videos)
    means = [
        values[random.integers(num_videos, size=(size, num_videos))].mean(axis=1)
        for size in _sizes(NUM_RESAMPLES, block)
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def _sizes(total: int, block: int) -> list[int]:
    """Cut ``total`` into blocks."""
    return [min(block, total - start) for start in range(0, total, block)]
