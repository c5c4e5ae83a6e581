"""Logits as they are stored: float16 with the largest at 0, and an offset that adds back.

Softmax does not see the offset. Centred at the maximum, the classes that matter lie near 0, where
float16 is finest: the error of a logit is at most 2**-11 of its distance from the top one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST = np.finfo(np.float16).min  # of a centred logit; its softmax is 0 at any sane temperature


def centre(logits: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Split finite logits into centred logits and their offset.

    Args:
        logits: (n, K).

    Returns:
        (n, K) with a maximum of exactly 0 in every row, and the maxima that were taken off, (n,).

    """
    offset = logits.max(axis=1)
    with np.errstate(over="ignore"):  # a distance beyond float32 is one beyond float16
        centred = np.maximum(logits - offset[:, None], LOWEST)
    return centred.astype(np.float16), offset


def bad_logits(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which rows of (n, K) hold NaN, infinity or one constant, none of which teaches."""
    bad: NDArray[np.bool_] = ~np.isfinite(logits).all(axis=1)
    bad |= logits.max(axis=1) == logits.min(axis=1)
    return bad
