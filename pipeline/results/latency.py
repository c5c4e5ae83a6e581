"""How long one call takes: the median, and what 95 of 100 calls stay under."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NUM_CALLS = 50
MIN_CALLS = 5
MAX_SECONDS = 20.0  # after which fewer calls will do


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, in milliseconds."""

    p50_ms: float
    p95_ms: float
    num_calls: int


def measure_latency(call: Callable[[], object]) -> Latency:
    """Time calls one after the other; the first two are not counted."""
    for _ in range(2):
        call()
    seconds: list[float] = []
    while len(seconds) < NUM_CALLS and (len(seconds) < MIN_CALLS or sum(seconds) < MAX_SECONDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.percentile(1000 * np.array(seconds), [50, 95])
    return Latency(float(p50), float(p95), len(seconds))
