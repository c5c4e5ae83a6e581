"""Intervals: as wide as theory says, by group, paired, and the same each time."""

import math

import numpy as np
import pytest

from pipeline.results.intervals import bootstrap_interval, seeds_interval, units_of

ACCURACY, NUM_GROUPS, NUM_TRIALS = 0.88, 200, 600


def over_videos(values, **options):
    return bootstrap_interval(values, units_of([""] * len(values)), **options)


@pytest.mark.parametrize("correlation", [0.2, 0.5, 0.8])
def test_it_covers_the_truth_by_group_as_often_as_it_says_and_not_by_video(
    monkeypatch, correlation
):
    monkeypatch.setattr("pipeline.results.intervals.NUM_RESAMPLES", 500)
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
        intervals = [bootstrap_interval(trial, units) for trial in values]
        return np.mean([low <= ACCURACY <= high for _, low, high in intervals])

    assert 0.92 <= coverage(correct, groups) <= 0.98
    assert coverage(correct[:100], units_of([""] * correct.shape[1])) < 0.9


@pytest.mark.parametrize("correlation", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed_deviation", [0.0, 0.1, 0.3])
def test_over_seeds_and_groups_it_covers_the_truth_of_other_seeds_and_groups(
    correlation, seed_deviation
):
    random = np.random.default_rng(int(10 * correlation + 100 * seed_deviation))
    num_seeds, num_groups, covered = 5, 40, []
    for _ in range(1000):
        sizes = 1 + random.poisson(3, num_groups)
        group_of = np.repeat(np.arange(num_groups), sizes)
        values = (
            seed_deviation * random.normal(size=(num_seeds, 1))
            + math.sqrt(correlation) * random.normal(size=num_groups)[group_of]
            + 0.3 * random.normal(size=(num_seeds, num_groups))[:, group_of]
            + math.sqrt(1 - correlation) * random.normal(size=len(group_of))
            + 0.3 * random.normal(size=(num_seeds, len(group_of)))
        )
        _, low, high = seeds_interval(values, units_of([f"g{group}" for group in group_of]))
        covered.append(low <= 0 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_over_seeds_of_one_unit_it_is_students_t_and_one_of_each_has_none():
    one = units_of(["g", "g"])
    values = np.array([[1.0, 1.0], [2.0, 2.0], [2.0, 4.0]])
    # 4.302653 is the 0.975 quantile of t with two degrees of freedom; s = 1, n = 3.
    half = 4.302653 / 3**0.5
    assert seeds_interval(values, one) == pytest.approx((2.0, 2.0 - half, 2.0 + half), rel=1e-6)
    assert seeds_interval(values[2:], one) == (3.0, None, None)
    of_groups = seeds_interval(values[2:], units_of(["g", "h"]))  # 12.7062 with one degree
    assert of_groups == pytest.approx((3.0, 3.0 - 12.7062, 3.0 + 12.7062), rel=1e-5)


def test_one_group_has_no_interval():
    units = units_of(["g", "g", "g"])
    assert bootstrap_interval(np.array([1.0, 1.0, 0.0]), units) == (
        pytest.approx(2 / 3),
        None,
        None,
    )
    assert (units.interval, units.note) == ("1 group: no interval", "")


@pytest.mark.parametrize("score", [0.0, 0.1, 1.0])
def test_equal_scores_do_not_say_how_far_others_would_be(score):
    units, values = units_of(["a", "b", "c", "c"]), np.full((2, 4), score)
    assert bootstrap_interval(values[0], units) == (pytest.approx(score), None, None)
    assert seeds_interval(values, units) == (pytest.approx(score), None, None)


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


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        over_videos(values)
