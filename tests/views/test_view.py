"""Views: pinned for ever, inside the video, and each draw on its own."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import PREPARED, VideoRecord
from pipeline.errors import ConfigError
from pipeline.views.view import (
    EVALUATION_VIEW,
    UNUSED_TAIL_FRAMES,
    Box,
    Jitter,
    Protocol,
    View,
    build_view,
    evaluation_views,
    kept_places,
    view_for_epoch,
)

GOLDEN = Path(__file__).parents[1] / "golden"
RECIPE = json.loads((GOLDEN / "recipe-golden.json").read_text())
POLICY, SQUASHED = ViewsConfig(), ViewsConfig(squash=True)

VIDEOS = st.builds(
    VideoRecord,
    sample_id=st.text(max_size=20),
    uri=st.just("v.avi"),
    label=st.just(0),
    split=st.just("train"),
    num_frames=st.integers(1, 3000),
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    codec=st.sampled_from(["h264", PREPARED]),
)
POLICIES = st.builds(
    lambda seed, areas, **more: ViewsConfig(
        seed=seed, min_area=min(areas), max_area=max(areas), **more
    ),
    seed=st.integers(-(2**40), 2**40),
    areas=st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)),
    max_aspect=st.floats(1.0, 20.0),
    flip_probability=st.floats(0.0, 1.0),
    jitter_probability=st.floats(0.0, 1.0),
    jitter_hue=st.floats(0.0, 0.5),
    grey_probability=st.floats(0.0, 1.0),
    jitter_per_frame=st.booleans(),
    squash=st.booleans(),
)


def video(name: str = "a", num_frames: int = 100, width: int = 320, height: int = 240):
    return VideoRecord(name, "v.avi", 0, "train", num_frames=num_frames, width=width, height=height)


# --- pinned -------------------------------------------------------------------------------------


def digests() -> dict[str, str]:
    """Return the digests of 1,000 views of many kinds of video under four policies."""
    policies = {
        "published": POLICY,
        "seed 7": ViewsConfig(seed=7),
        "per frame": ViewsConfig(jitter_per_frame=True),
        "directional": ViewsConfig(seed=-3, flip_probability=0.0, min_area=0.5, max_aspect=1.0),
    }
    shapes = [(1, 9, 7), (8, 320, 240), (29, 240, 320), (100, 1920, 1080), (301, 427, 240)]
    return {
        f"{name}, {num_frames} of {width} x {height}, view {index}, {length}": f"{view.digest:016x}"
        for name, policy in policies.items()
        for num_frames, width, height in shapes
        for index in range(-1, 24)
        for length in (8, 16)
        for view in [
            build_view(policy, video("Ä/v_x", num_frames, width, height), index, num_frames=length)
        ]
    }


def test_a_thousand_views_are_pinned():
    """Should this fail, every store ever made is of other views: raise POLICY_VERSION."""
    expected = json.loads((GOLDEN / "view-digests.json").read_text())
    assert len(expected) == 1000
    assert digests() == expected


@pytest.mark.parametrize(
    ("table", "num_frames"),
    [("test_mode_8_segments_interval4", 8), ("test_mode_16_segments_interval4", 16)],
)
def test_centred_frames_are_the_published_ones(table, num_frames):
    for available, expected in RECIPE["sampling"][table].items():
        record = video(num_frames=int(available))
        view = build_view(POLICY, record, EVALUATION_VIEW, num_frames=num_frames)
        assert list(view.frame_indices) == expected, available


@pytest.mark.parametrize(
    "available", RECIPE["sampling"]["train_mode_8_segments_interval4_observed_bounds"]
)
def test_random_frames_lie_in_the_published_bounds(available):
    bounds = RECIPE["sampling"]["train_mode_8_segments_interval4_observed_bounds"][available]
    drawn = [
        build_view(POLICY, video(num_frames=int(available)), index, num_frames=8).frame_indices
        for index in range(300)
    ]
    columns = list(zip(*drawn, strict=True))
    for column, low, high in zip(columns, bounds["min"], bounds["max"], strict=True):
        assert low <= min(column)
        assert max(column) <= high


@pytest.mark.parametrize("sides", RECIPE["geometry"])
def test_the_evaluation_box_is_the_published_one(sides):
    """Published: resize the short side to 256, cut 224 from the centre. Here: cut, then resize."""
    width, height = map(int, sides.split("x"))
    published = RECIPE["geometry"][sides]["center"]
    box = build_view(POLICY, video(width=width, height=height), -1, num_frames=8).box
    across, down = (
        resized / side
        for resized, side in zip(published["resized_wh"], (width, height), strict=True)
    )
    ours = [
        box.left * across,
        box.top * down,
        (box.left + box.width) * across,
        (box.top + box.height) * down,
    ]
    # A pixel of the source is more than one of the resized picture where that is larger.
    assert ours == pytest.approx(published["box"], abs=max(1.0, across))


# --- inside the video ---------------------------------------------------------------------------


def assert_inside(view: View, record: VideoRecord) -> None:
    assert list(view.frame_indices) == sorted(view.frame_indices)
    assert 0 <= view.frame_indices[0] <= view.frame_indices[-1] < record.num_frames
    box = view.box
    assert box.top >= 0 <= box.left
    assert box.height >= 1 <= box.width
    assert box.top + box.height <= record.height
    assert box.left + box.width <= record.width


@given(POLICIES, VIDEOS, st.integers(-1, 50), st.integers(1, 32))
def test_a_view_is_inside_its_video(policy, record, index, num_frames):
    view = build_view(policy, record, index, num_frames=num_frames)
    assert len(view.frame_indices) == num_frames
    assert_inside(view, record)
    assert 0 <= view.digest < 2**64
    per_frame = policy.jitter_per_frame and index >= 0
    assert len(view.jitters) == (num_frames if per_frame else 1)
    for jitter in view.jitters:
        assert min(jitter.as_row[:3]) >= 0
        assert -128 <= jitter.hue <= 128


def test_the_size_and_form_of_crops_is_that_of_the_policy():
    policy = ViewsConfig(min_area=0.3, max_area=0.6, max_aspect=1.5)
    boxes = [build_view(policy, video(), index, num_frames=1).box for index in range(300)]
    areas = [box.width * box.height / (320 * 240) for box in boxes]
    aspects = [box.width / box.height for box in boxes]
    assert 0.29 < min(areas) < 0.33
    assert 0.57 < max(areas) <= 0.6
    assert 1 / 1.52 < min(aspects) < 0.75
    assert 1.35 < max(aspects) < 1.52
    wide = sum(aspect > 1 for aspect in aspects)
    assert 100 < wide < 200


def test_a_crop_that_never_fits_falls_back_to_the_centre():
    sliver = video(width=1000, height=10)
    policy = ViewsConfig(min_area=0.9, max_aspect=1.0)
    assert build_view(policy, sliver, 0, num_frames=1).box == Box(0, 495, 10, 10)


def test_chances_are_about_right():
    for chance in (0.0, 1.0):
        policy = ViewsConfig(flip_probability=chance, grey_probability=chance)
        views = [build_view(policy, video(), index, num_frames=1) for index in range(300)]
        assert {(view.flip, view.jitters[0].grey) for view in views} == {
            (bool(chance), int(chance))
        }
    views = [build_view(POLICY, video(), index, num_frames=1) for index in range(1000)]
    assert sum(view.flip for view in views) == pytest.approx(500, abs=80)
    assert sum(view.jitters[0].grey for view in views) == pytest.approx(200, abs=60)
    plain = sum(view.jitters[0].as_row[:4] == Jitter().as_row[:4] for view in views)
    assert plain == pytest.approx(200, abs=60)


# --- each draw on its own -----------------------------------------------------------------------

PARTS = {
    "frame_indices": {},
    "box": {"min_area": 0.5},
    "flip": {"flip_probability": 0.9},
    "jitters": {"jitter_brightness": 0.1, "grey_probability": 0.9},
}


@pytest.mark.parametrize("changed", PARTS)
def test_a_setting_moves_no_other_draw(changed):
    policy = ViewsConfig(**PARTS[changed])
    before, after = (
        [build_view(p, video(), index, num_frames=8) for index in range(60)]
        for p in (POLICY, policy)
    )
    for part in PARTS:
        equal = [getattr(b, part) == getattr(a, part) for b, a in zip(before, after, strict=True)]
        assert all(equal) == (part != changed or not PARTS[changed])


def test_one_number_of_a_view_changes_its_digest():
    view = View(0, (1, 2), Box(3, 4, 50, 60), False, (Jitter(),))
    changes = [
        {"view_index": 1},
        {"frame_indices": (1, 3)},
        {"flip": True},
        *({"box": replace(view.box, **{side: 5})} for side in ("top", "left", "height", "width")),
        *({"jitters": (replace(Jitter(), **{name: 1}),)} for name in ("hue", "grey", "contrast")),
        {"jitters": (Jitter(), Jitter())},
    ]
    others = [replace(view, **change) for change in changes]
    assert len({view.digest for view in [view, *others]}) == len(others) + 1


def test_the_evaluation_view_depends_on_the_video_alone():
    view = build_view(POLICY, video("a"), EVALUATION_VIEW, num_frames=8)
    other = build_view(ViewsConfig(seed=5, min_area=0.9), video("b"), EVALUATION_VIEW, num_frames=8)
    assert view == other
    assert not view.flip
    assert view.jitters == (Jitter(),)


# --- which view, and how much of it -------------------------------------------------------------


@given(st.integers(0, 40), st.integers(1, 12), st.text(max_size=9), st.integers())
def test_every_cycle_shows_every_view_once(cycle, num_views, sample_id, seed):
    epochs = range(cycle * num_views, (cycle + 1) * num_views)
    shown = [view_for_epoch(epoch, sample_id, num_views, seed=seed) for epoch in epochs]
    assert sorted(shown) == list(range(num_views))


def test_an_epoch_shows_all_views():
    for epoch in range(5):
        shown = Counter(view_for_epoch(epoch, f"v{i}", 8, seed=0) for i in range(800))
        assert sorted(shown) == list(range(8))
        assert max(shown.values()) < 150


# --- evaluation protocols -------------------------------------------------------------------------


@given(VIDEOS, st.integers(1, 5), st.integers(1, 4), st.integers(1, 16))
def test_views_of_a_protocol_lie_inside_the_video(record, num_clips, num_crops, num_frames):
    protocol = Protocol(num_clips, num_crops)
    views = evaluation_views(POLICY, record, protocol, num_frames=num_frames)
    assert len({view.view_index for view in views}) == len(views) == protocol.num_views
    assert all(view.view_index < 0 for view in views)
    for view in views:
        assert_inside(view, record)


def test_one_clip_and_crop_is_the_cached_evaluation_view():
    record = video()
    (view,) = evaluation_views(POLICY, record, Protocol(), num_frames=8)
    assert view == build_view(POLICY, record, EVALUATION_VIEW, num_frames=8)


def test_indices_of_different_protocols_never_meet():
    seen = [
        view.view_index
        for num_clips, num_crops in ((1, 1), (1, 3), (4, 1), (4, 3), (3, 4), (10, 3))
        for view in evaluation_views(POLICY, video(), Protocol(num_clips, num_crops), num_frames=4)
    ]
    assert len(set(seen)) == len(seen)


def test_three_crops_are_the_two_ends_and_the_middle_of_the_long_side():
    lying, standing = video(width=320, height=240), video(width=240, height=320)
    boxes = [v.box for v in evaluation_views(POLICY, lying, Protocol(1, 3), num_frames=4)]
    assert boxes == [Box(0, left, 240, 240) for left in (0, 40, 80)]
    boxes = [v.box for v in evaluation_views(POLICY, standing, Protocol(1, 3), num_frames=4)]
    assert boxes == [Box(top, 0, 240, 240) for top in (0, 40, 80)]


def test_clips_share_a_segment_at_equal_distances():
    record = video(num_frames=8 * 8 + UNUSED_TAIL_FRAMES)
    views = evaluation_views(POLICY, record, Protocol(4, 1), num_frames=8)
    assert [view.frame_indices[0] for view in views] == [1, 3, 5, 7]
    assert [view.frame_indices[1] for view in views] == [9, 11, 13, 15]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_view(POLICY, video(), -2, num_frames=8), "-2"),
        (lambda: build_view(POLICY, video(num_frames=0), 0, num_frames=8), "index it first"),
        (lambda: Protocol(0, 1), "views; 0 clips x 1 crops"),
        (lambda: Protocol(1, 0), "views; 1 clips x 0 crops"),
        (lambda: Protocol(40, 30), "views; 40 clips x 30 crops"),
    ],
)
def test_views_that_cannot_be_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_there_is_one_crop_of_a_squashed_picture():
    with pytest.raises(ConfigError, match="whole picture"):
        evaluation_views(SQUASHED, video(), Protocol(1, 3), num_frames=4)


@pytest.mark.parametrize(
    ("num_frames", "stride", "places"),
    [
        (8, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 2, [0, 2, 5, 7]),
        (16, 2, [0, 2, 4, 6, 9, 11, 13, 15]),
        (8, 4, [0, 7]),
        (8, 8, [3]),
        (1, 1, [0]),
    ],
)
def test_fewer_frames_are_spread_from_the_first_to_the_last(num_frames, stride, places):
    assert kept_places(num_frames, stride) == places


def test_a_half_rate_student_sees_the_end_of_a_video():
    view = build_view(ViewsConfig(), video(num_frames=300), EVALUATION_VIEW, num_frames=8)
    assert view.every(2).frame_indices == (18, 92, 204, 278)
