"""Batches come in the order in which they were asked for, or not at all."""

from dataclasses import replace

import numpy as np
import psutil
import pytest

from pipeline.config.schema import ViewsConfig
from pipeline.errors import Status, VideoDecodeError
from pipeline.views.clip import clips_of
from pipeline.views.loader import ClipLoader, ClipRequest, jitter_rows
from pipeline.views.view import Mix, build_view


@pytest.fixture(scope="module")
def requests(dataset) -> list[list[ClipRequest]]:
    """Seven batches of uneven length, over slow and fast videos."""
    policy, records = ViewsConfig(jitter_per_frame=True), dataset.manifest.records
    every = [
        ClipRequest(row, record, build_view(policy, record, index, num_frames=4), prove=index == 0)
        for index in range(2)
        for row, record in enumerate(records[:10])
    ]
    return [every[start : start + 3] for start in range(0, 20, 3)]


@pytest.fixture(scope="module")
def limits(tiny_config):
    return tiny_config.dataset.limits


def children() -> set[int]:
    """Return the processes that this one has started and that still run."""
    running = psutil.Process().children()
    return {child.pid for child in running if child.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.parametrize("num_loaders", [1, 3])
def test_batches_come_in_the_order_of_requests(num_loaders, requests, limits):
    before = children()
    with ClipLoader(num_loaders, limits, side=32) as loader:
        batches = list(loader.batches(requests))
        assert 1 <= len(children() - before) <= num_loaders
    assert children() == before
    assert [list(batch.requests) for batch in batches] == requests
    for batch in batches:
        assert batch.frames.shape == (len(batch.requests), 4, 32, 32, 3)
        assert batch.frames.dtype == np.uint8
        assert np.array_equal(batch.jitter, jitter_rows([r.view for r in batch.requests]))
        for request, clip, frames in zip(batch.requests, batch.clips, batch.frames, strict=True):
            (expected,) = clips_of(
                request.record, [request.view], limits, side=32, prove=request.prove
            )
            assert np.array_equal(frames, expected.frames)
            assert np.array_equal(clip.frame_crc, expected.frame_crc)


def test_a_student_s_clip_is_a_part_of_the_teacher_s(requests, limits):
    with ClipLoader(1, limits, side=32) as loader:
        whole, part = (
            next(loader.batches([[replace(r, frame_stride=stride) for r in requests[0]]]))
            for stride in (1, 2)
        )
    assert np.array_equal(part.frames, whole.frames[:, [0, 3]])
    assert np.array_equal(part.jitter, whole.jitter[:, [0, 3]])
    assert part.requests[0].view == whole.requests[0].view


def test_an_error_comes_with_its_batch_and_names_the_video(requests, limits, tmp_path):
    bad = replace(
        requests[2][1],
        record=replace(
            requests[2][1].record, sample_id="the bad one", uri=str(tmp_path / "no.avi")
        ),
    )
    wanted = [*requests[:2], [requests[2][0], bad], *requests[3:]]
    before = children()
    with ClipLoader(2, limits, side=32) as loader:
        batches = loader.batches(wanted)
        assert [list(next(batches).requests) for _ in range(2)] == requests[:2]
        with pytest.raises(VideoDecodeError, match="the bad one") as caught:
            next(batches)
        assert caught.value.status == Status.NOT_FOUND
        # A caller that counts the error may go on with other clips.
        assert list(next(loader.batches(requests[3:4])).requests) == requests[3]
    assert children() == before


def test_an_endless_order_is_read_only_a_little_ahead(requests, limits):
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield requests[0][:1]

    with ClipLoader(1, limits, side=32) as loader:
        batches = loader.batches(endless())
        for _ in range(5):
            next(batches)
    assert len(asked) < 10


def test_a_proved_pair_has_both_clips_proved(requests, limits):
    """The partner of the second is the first, seen in another pass, in which it was not proved."""
    first, second = (replace(request, prove=False) for request in requests[0][:2])
    mix = Mix(700, (0, 0, 0, 0), 1)
    mixed = replace(second, view=replace(second.view, mix=mix), prove=True)
    mixed = replace(mixed, partner=replace(first, prove=True))
    with ClipLoader(1, limits, side=32) as loader:
        (batch,) = loader.batches([[first, mixed, replace(first, partner=second)]])
    assert batch.mixing.partners.tolist()[1:] == [3, 4]
    assert [len(clip.frame_crc) for clip in batch.clips] == [0, 4, 0, 4, 0]
