"""Partners, shares and boxes are arithmetic, and of the published distributions."""

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
from scipy import stats

from dvflnet import mixing
from pipeline.config.schema import MixConfig, ViewsConfig
from pipeline.dataset.manifest import VideoRecord, build_manifest
from pipeline.views import mix, view
from pipeline.views.mix import MixGroups, live_groups, store_groups

NUM_CLASSES = 10


def groups_of(count: int = 320, **settings) -> MixGroups:
    """Return the groups of a balanced data set of ten classes whose names begin with the class."""
    records = [
        VideoRecord(
            f"class {number % NUM_CLASSES}/{number:04d}",
            "",
            number % NUM_CLASSES,
            "train",
            num_frames=60,
            width=64,
            height=48,
        )
        for number in range(count)
    ]
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    manifest = build_manifest("", names, records)
    by_row = dict(enumerate(manifest.records))
    policy = ViewsConfig(mix=MixConfig(**settings))
    return MixGroups(policy, by_row, store_groups(policy, by_row))


def test_the_steps_are_those_of_the_device():
    assert (view.SHARE_STEPS, view.MIX_GRID) == (mixing.SHARE_STEPS, mixing.GRID)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 31, 32])
def test_everybody_meets_everybody_once(count):
    turns = range(count - 1 + count % 2)
    for turn in turns:
        for place in range(count):
            there = mix._opponent(place, count, turn)
            assert there != place
            assert there is None or mix._opponent(there, count, turn) == place
    for place in range(count):
        met = [mix._opponent(place, count, turn) for turn in turns]
        assert Counter(met) == Counter({*range(count), None if count % 2 else place} - {place})


def test_sixteen_views_are_sixteen_partners():
    groups = groups_of()
    for row in range(320):
        partners = {groups.partner(row, view_index) for view_index in range(16)}
        assert len(partners) == 16
        assert {groups.group_of[partner] for partner in partners} == {groups.group_of[row]}


def test_partners_are_of_any_class():
    groups = groups_of()
    same = [
        groups.records[row].label == groups.records[groups.partner(row, view_index)].label
        for row in range(320)
        for view_index in range(8)
    ]
    low, high = stats.binom.interval(0.999, len(same) // 2, 31 / 319)
    assert low <= sum(same) / 2 <= high


def test_both_of_a_pair_have_one_share_and_one_box():
    groups = groups_of(64)
    for row in range(64):
        partner = groups.partner(row, 3)
        mine, theirs = (groups.view(it, 3, num_frames=8).mix for it in (row, partner))
        assert mine.as_row == theirs.as_row
        assert mine.partner_digest != theirs.partner_digest


def test_shares_and_boxes_are_of_the_published_distributions():
    groups = groups_of(320)
    mixes = [groups.view(r, v, num_frames=1).mix for r in range(320) for v in range(31)]
    mixup = [it.share / view.SHARE_STEPS for it in mixes if it.share < view.SHARE_STEPS]
    assert stats.binomtest(len(mixup) // 2, len(mixes) // 2, 0.5).pvalue > 1e-3
    assert stats.kstest(mixup[::2], stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    boxes = [it.box for it in mixes if it.share == view.SHARE_STEPS]
    inner = [box for box in boxes if min(box) > 0 and max(box) < 224]
    assert all(bottom - top == right - left for top, left, bottom, right in inner)
    assert {edge for box in boxes for edge in box} >= {0, 224}


def test_half_of_the_pairs_may_stay_as_they_are():
    groups = groups_of(320, probability=0.5)
    mixed = [groups.partner(row, 0) is not None for row in range(320)]
    assert 100 < sum(mixed) < 220
    plain = next(row for row in range(320) if not mixed[row])
    assert groups.view(plain, 0, num_frames=8).mix is None


def test_the_draws_are_pinned():
    groups, text = groups_of(64), ""
    for row in range(64):
        text += f"{groups.partner(row, 5)} {groups.view(row, 5, num_frames=8).mix.as_row}\n"
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "feb6541324184111"


def test_left_out_and_bad_videos_have_no_partner():
    groups = groups_of(64)
    partner = groups.partner(0, 0)
    without = replace(groups, left_out={(0, 0)})
    assert without.partner(partner, 0) is without.partner(0, 0) is None
    assert without.partner(0, 1) == groups.partner(0, 1), "of another view"
    records = groups.records | {0: replace(groups.records[0], status=3)}
    group_of = store_groups(groups.policy, records)
    assert 0 not in group_of
    other = MixGroups(groups.policy, records, group_of)
    assert sum(other.partner(row, 0) is None for row in range(1, 32)) == 1  # of an odd number


def test_few_rows_make_whole_groups_of_their_own():
    groups, few = groups_of(320), range(3, 320, 10)
    live = replace(groups, group_of=live_groups(groups.policy, few))
    assert all(len({live.partner(row, view) for view in range(16)}) == 16 for row in few)
