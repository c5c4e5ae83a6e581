"""Candidates, sizes and JPEGs, and views over them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import PREPARED, VideoRecord
from pipeline.frames.pictures import decode_jpeg, encode_jpeg
from pipeline.frames.prepared import candidate_indices, stored_size
from pipeline.views.view import EVALUATION_VIEW, build_view

RECORD = VideoRecord("v", "v", 0, "train", num_frames=32, width=340, height=256, codec=PREPARED)


@given(num_frames=st.integers(1, 2000), num_candidates=st.integers(1, 64))
def test_candidates_are_distinct_frames_of_equal_segments(num_frames, num_candidates):
    indices = candidate_indices(num_frames, num_candidates)
    assert len(indices) == min(num_frames, num_candidates)
    assert list(indices) == sorted(set(indices))
    assert indices[0] >= 0
    assert indices[-1] < num_frames
    if num_frames > num_candidates:
        middles = [(i + 0.5) * num_frames / num_candidates for i in range(num_candidates)]
        assert max(abs(m - i) for m, i in zip(middles, indices, strict=True)) < 1


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (256, 341)),
        (640, 480, (341, 256)),
        (256, 340, (256, 340)),
        (64, 96, (64, 96)),
        (1080, 1920, (256, 455)),
    ],
)
def test_the_short_side_shrinks_and_never_grows(height, width, expected):
    assert stored_size(height, width, 256) == expected


def test_every_candidate_is_reachable():
    views = [build_view(ViewsConfig(), RECORD, index, num_frames=8) for index in range(200)]
    seen = {index for view in views for index in view.frame_indices}
    assert seen == set(range(32))
    for view in views:
        assert [index // 4 for index in view.frame_indices] == list(range(8))


def test_the_evaluation_view_is_centred_on_all_candidates():
    view = build_view(ViewsConfig(), RECORD, EVALUATION_VIEW, num_frames=8)
    assert view.frame_indices == (2, 6, 10, 14, 18, 22, 26, 30)


# --- JPEG ---------------------------------------------------------------------------------------


def test_encoding_is_deterministic_and_quality_counts(draw_picture):
    picture = draw_picture(5, 96, 64)
    low, high = encode_jpeg(picture, 60), encode_jpeg(picture, 95)
    assert encode_jpeg(picture.copy(), 95) == high
    assert len(low) < len(high)
    assert np.abs(decode_jpeg(high, 64, 96).astype(int) - picture).mean() < 3


@pytest.mark.parametrize(
    ("content", "size"),
    [
        *((None, size) for size in [(64, 95), (64, 97), (32, 32), (65, 96)]),
        *((content, (64, 96)) for content in [b"", b"no picture", b"\xff\xd8\xff"]),
    ],
)
def test_another_size_and_what_is_no_jpeg_are_refused(draw_picture, content, size):
    picture = encode_jpeg(draw_picture(5, 96, 64), 90)
    with pytest.raises(ValueError, match=r"."):
        decode_jpeg(picture if content is None else content, *size)
