"""Intervals: as wide as theory says, paired, and the same each time."""

import math

import numpy as np
import pytest

from pipeline.results.bootstrap import bootstrap_interval


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    values = np.repeat([1.0, 0.0], [700, 300])
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * math.sqrt(0.7 * 0.3 / len(values))
    assert mean == pytest.approx(0.7)
    assert low == pytest.approx(0.7 - half, abs=0.003)
    assert high == pytest.approx(0.7 + half, abs=0.003)


def test_it_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        _, low, high = bootstrap_interval(random.normal(0.3, 1.0, 60), seed=seed)
        hits += low <= 0.3 <= high
    assert 88 <= hits <= 99


def test_pairing_finds_what_two_separate_intervals_would_not():
    random = np.random.default_rng(1)
    hard = random.random(400)  # videos differ much more than the two networks do
    better, worse = hard + 0.02 + 0.01 * random.random(400), hard
    assert bootstrap_interval(better - worse).excludes_zero
    assert bootstrap_interval(better).low < bootstrap_interval(worse).high


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(10.0) ** 1.7
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_blocks_change_nothing_but_memory(monkeypatch):
    values = np.arange(50.0)
    whole = bootstrap_interval(values)
    monkeypatch.setattr("pipeline.results.bootstrap._BLOCK_CELLS", 700)
    assert bootstrap_interval(values) == whole


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_interval(values)
