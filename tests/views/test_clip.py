"""Clips: what a view cuts out of a video, and the numbers that prove it."""

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.config.schema import VideoLimits, ViewsConfig
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.video import frames_of, probe_video
from pipeline.views.clip import clips_of
from pipeline.views.view import Box, View, build_view

LIMITS = VideoLimits()
VIEW = View(view_index=0, frame_indices=(2, 5, 5, 11), box=Box(4, 6, 30, 40), flip=False)


@pytest.fixture(scope="session")
def record(tmp_path_factory, make_video, make_record):
    path = make_video(tmp_path_factory.mktemp("clips") / "a.avi", 16)
    return probe_video(make_record(path), LIMITS)


@pytest.fixture(scope="session")
def frames(record):
    return dict(frames_of(record, range(16), LIMITS))


def crc_of(record, view):
    return clips_of(record, [view], LIMITS, side=32)[0].frame_crc


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("side", "method"),
    [(10, cv2.INTER_AREA), (24, cv2.INTER_AREA), (32, cv2.INTER_LINEAR), (80, cv2.INTER_LINEAR)],
)
def test_a_clip_is_cut_flipped_and_resized(record, frames, flip, side, method):
    (clip,) = clips_of(record, [replace(VIEW, flip=flip)], LIMITS, side=side)
    assert clip.frames.shape == (4, side, side, 3)
    assert clip.frames.dtype == np.uint8
    for position, index in enumerate(VIEW.frame_indices):
        cut = frames[index][4:34, 6:46]
        cut = np.ascontiguousarray(cut[:, ::-1] if flip else cut)
        expected = cv2.resize(cut, (side, side), interpolation=method)
        assert np.array_equal(clip.frames[position], expected)
        assert clip.frame_crc[position] == zlib.crc32(cut.tobytes())


def test_all_views_of_one_pass_equal_views_on_their_own(record):
    policy = ViewsConfig()
    views = [build_view(policy, record, index, num_frames=4) for index in (-1, *range(6))]
    together = clips_of(record, views, LIMITS, side=32)
    for view, clip in zip(views, together, strict=True):
        (alone,) = clips_of(record, [view], LIMITS, side=32)
        assert np.array_equal(clip.frames, alone.frames)
        assert np.array_equal(clip.frame_crc, alone.frame_crc)


def test_crc_does_not_depend_on_the_side(record):
    small, large = (clips_of(record, [VIEW], LIMITS, side=side)[0] for side in (32, 64))
    assert np.array_equal(small.frame_crc, large.frame_crc)


@pytest.mark.parametrize(
    "box",
    [Box(3, 6, 30, 40), Box(5, 6, 30, 40), Box(4, 5, 30, 40), Box(4, 7, 30, 40), Box(4, 6, 31, 40),
     Box(4, 6, 29, 40), Box(4, 6, 30, 41), Box(4, 6, 30, 39)],
    ids=lambda box: f"{box.top}-{box.left}-{box.height}-{box.width}",
)  # fmt: skip
def test_a_pixel_of_crop_changes_every_crc(record, box):
    assert (crc_of(record, replace(VIEW, box=box)) != crc_of(record, VIEW)).all()


def test_a_flip_changes_every_crc(record):
    assert (crc_of(record, replace(VIEW, flip=True)) != crc_of(record, VIEW)).all()


def test_the_next_frame_changes_its_crc_alone(record):
    other = replace(VIEW, frame_indices=(2, 5, 6, 11))
    differing = crc_of(record, other) != crc_of(record, VIEW)
    assert differing.tolist() == [False, False, True, False]


def test_every_other_frame_is_a_part_of_the_clip(record):
    (whole,) = clips_of(record, [VIEW], LIMITS, side=32)
    (part,) = clips_of(record, [VIEW.every(2)], LIMITS, side=32)
    assert np.array_equal(part.frames, whole.frames[::2])
    assert np.array_equal(part.frame_crc, whole.frame_crc[::2])


def test_unproved_clips_have_the_same_pixels_and_no_crc(record):
    (proved,) = clips_of(record, [VIEW], LIMITS, side=32)
    (unproved,) = clips_of(record, [VIEW], LIMITS, side=32, prove=False)
    assert np.array_equal(unproved.frames, proved.frames)
    assert unproved.frame_crc.size == 0


def test_a_view_beyond_the_end_is_no_shorter_clip(record):
    with pytest.raises(VideoDecodeError) as caught:
        clips_of(record, [replace(VIEW, frame_indices=(2, 5, 5, 16))], LIMITS, side=32)
    assert caught.value.status == Status.TOO_SHORT


def test_no_views_no_clips(record):
    assert clips_of(record, [], LIMITS, side=32) == []


def test_turned_videos_are_cut_upright(tmp_path, make_video, make_record):
    path = make_video(tmp_path / "t.mp4", 12, codec="libx264", quarter_turns=1)
    turned = probe_video(make_record(path), LIMITS)
    (clip,) = clips_of(turned, [replace(VIEW, box=Box(0, 0, 48, 64))], LIMITS, side=64)
    red, green = clip.frames[0, :40, :, 0].astype(int), clip.frames[0, :40, :, 1].astype(int)
    assert red[:, -8:].mean() > red[:, :8].mean() + 100  # grows to the right
    assert green[-8:].mean() > green[:8].mean() + 60  # and this one downwards
