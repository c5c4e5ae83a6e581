"""Intervals: as wide as theory says, by group, paired, and the same each time."""

import math

import numpy as np
import pytest

from pipeline.results.bootstrap import bootstrap_interval, bootstrap_intervals, units_of

ACCURACY, NUM_GROUPS, NUM_TRIALS = 0.88, 200, 1000


def over_videos(values, **options):
    return bootstrap_interval(values, units_of([""] * len(values)), **options)


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    values = np.repeat([1.0, 0.0], [700, 300])
    mean, low, high = over_videos(values)
    half = 1.96 * math.sqrt(0.7 * 0.3 / len(values))
    assert mean == pytest.approx(0.7)
    assert low == pytest.approx(0.7 - half, abs=0.003)
    assert high == pytest.approx(0.7 + half, abs=0.003)


@pytest.mark.parametrize("correlation", [0.2, 0.5, 0.8])
def test_it_covers_the_truth_by_group_as_often_as_it_says_and_not_by_video(
    monkeypatch, correlation
):
    monkeypatch.setattr("pipeline.results.bootstrap.NUM_RESAMPLES", 1_000)
    random = np.random.default_rng(int(10 * correlation))
    sizes = 1 + random.poisson(4, NUM_GROUPS)  # clips of a recording
    groups = units_of([f"g{group}" for group in np.repeat(np.arange(NUM_GROUPS), sizes)])
    # Clips of a group are right with one probability, drawn from a beta distribution: any two of
    # them have the wanted correlation.
    spread = 1 / correlation - 1
    shares = random.beta(
        ACCURACY * spread, (1 - ACCURACY) * spread, size=(NUM_TRIALS, NUM_GROUPS)
    ).repeat(sizes, axis=1)
    correct = (random.random(shares.shape) < shares).astype(float)

    def coverage(values, units):
        intervals = bootstrap_intervals(values, units)
        return np.mean([low <= ACCURACY <= high for _, low, high in intervals])

    assert 0.92 <= coverage(correct, groups) <= 0.98
    assert coverage(correct[:200], units_of([""] * correct.shape[1])) < 0.9


def test_a_group_of_many_clips_counts_by_its_clips():
    values, groups = np.array([1.0, 1.0, 1.0, 0.0]), units_of(["a", "a", "a", "b"])
    assert bootstrap_interval(values, groups) == (0.75, 0.0, 1.0)


@pytest.mark.parametrize(
    ("groups", "words", "note"),
    [
        ([f"g{n}" for n in (*range(24), *range(24))], "24 groups", ""),
        (["a/g1", "b/g1", "b/g1"], "2 groups", "2 groups are few"),
        ([""] + ["a"] * 29, "30 videos", "groups of some videos are not known"),
    ],
)
def test_units_are_groups_where_all_are_known_and_say_what_is_wrong_with_them(groups, words, note):
    units = units_of(groups)
    assert str(units) == words
    assert note in units.note
    assert bool(units.note) == bool(note)


def test_pairing_finds_what_two_separate_intervals_would_not():
    random = np.random.default_rng(1)
    hard = random.random(400)  # videos differ much more than the two networks do
    better, worse = hard + 0.02 + 0.01 * random.random(400), hard
    assert over_videos(better - worse).excludes_zero
    assert over_videos(better).low < over_videos(worse).high


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(10.0) ** 1.7
    assert over_videos(values, seed=3) == over_videos(values, seed=3)
    assert over_videos(values, seed=3) != over_videos(values, seed=4)


def test_blocks_change_nothing_but_memory(monkeypatch):
    values = np.arange(50.0)
    whole = over_videos(values)
    monkeypatch.setattr("pipeline.results.bootstrap._BLOCK_CELLS", 700)
    assert over_videos(values) == whole


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        over_videos(values)
