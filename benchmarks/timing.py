"""Time methods in turns, so that a busy moment of the machine falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

Clock = Callable[[], float]


def device_clock(device: torch.device) -> Clock:
    """Return a clock in seconds: of CPU time on the CPU, of finished work on a GPU."""
    if device.type == "cpu":
        return time.process_time

    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished


def take_turns(
    methods: Mapping[str, Callable[[], object]], clock: Clock, *, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of every round of every method; a round before them warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        for name, method in methods.items():
            started = clock()
            method()
            if number:
                seconds[name].append(clock() - started)
    return seconds


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times as long ``slow`` takes: the median over rounds."""
    return median(a / b for a, b in zip(slow, fast, strict=True))
