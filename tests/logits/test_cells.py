"""Centred float16 is close, and what cannot be logits is seen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.logits.cells import bad_logits, centre

FLOATS = st.floats(-3e4, 3e4, width=32)
LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=FLOATS)


@given(LOGITS)
def test_error_is_within_half_a_float16_step(logits):
    centred, offset = centre(logits)
    assert (centred.max(axis=1) == 0).all()
    exact = logits - offset[:, None]
    error = np.abs(centred.astype(np.float64) - exact)
    assert (error <= np.abs(exact) * 2.0**-11 + 2.0**-25).all()


def test_distances_beyond_float16_stay_finite():
    centred, _ = centre(np.array([[3e38, -3e38], [0, -1e9]], np.float32))
    assert centred.tolist() == [[0, -65504], [0, -65504]]


def test_bad_logits():
    rows = [[1, 2, 3], [np.nan, 0, 1], [np.inf, 0, 1], [-np.inf, 0, 1], [4, 4, 4], [0, 0, 1e-7]]
    assert bad_logits(np.array(rows)).tolist() == [False, True, True, True, True, False]
