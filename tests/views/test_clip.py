"""Clips: what a view cuts out of a video, and the numbers that prove it."""

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline.config.schema import VideoLimits, ViewsConfig
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
