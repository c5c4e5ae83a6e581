"""Proof of view: what is the teacher's view passes, and nothing else does."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config.schema import VideoLimits
from pipeline.errors import Status, StoreIncomplete, VideoDecodeError, ViewMismatch
from pipeline.frames import video
from pipeline.frames.video import probe_video
from pipeline.logits.mirror import open_mirror
from pipeline.training.proof import COLOURS, audit, diagnose, is_audited
from pipeline.views.clip import clips_of, crc_of
from pipeline.views.loader import ClipBatch, ClipLoader, ClipRequest, jitter_rows
from pipeline.views.view import EVALUATION_VIEW, View, build_view


@pytest.fixture(scope="module")
def mirror(sealed_store, tmp_path_factory):
    return open_mirror(sealed_store, tmp_path_factory.mktemp("mirrors"))


@pytest.fixture(scope="module")
def request_of(dataset, tiny_config):
    """Ask for the clip of a row and view, proved."""

    def build(row: int, view_index: int = 0, **changes) -> ClipRequest:
        record, policy = dataset.manifest.records[row], tiny_config.views
        view = build_view(policy, record, view_index, num_frames=4)
        return replace(ClipRequest(row, record, view, prove=True), **changes)

    return build


@pytest.fixture(scope="module")
def check(mirror, tiny_config):
    """Audit one clip; ``seen`` is what the student really decodes, if not what it believes."""

    def run(request: ClipRequest, seen: View | None = None) -> int:
        view = request.seen if seen is None else seen
        limits = tiny_config.dataset.limits
        clips = clips_of(request.record, [view], limits, side=24, prove=request.prove)
        frames = np.stack([clip.frames for clip in clips])
        batch = ClipBatch((request,), tuple(clips), frames, jitter_rows([view]))
        return audit(batch, mirror, limits)

    return run


@pytest.mark.parametrize(
    ("num_clips", "num_loaders"),
    [
        (100, 2),
        *(
            pytest.param(10_000, num, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])
            for num in (1, 2, 4)
        ),
    ],
)
def test_a_true_student_raises_no_false_alarm(
    num_clips, num_loaders, dataset, request_of, mirror, tiny_config
):
    rows = dataset.manifest.rows_of("train")
    val = [request_of(row, EVALUATION_VIEW) for row in dataset.manifest.rows_of("val")]
    every = [request_of(row, index) for row in rows for index in range(3)] + val
    assert len(every) < 100
    clips = list(itertools.islice(itertools.cycle(every), num_clips))
    wanted = [clips[start : start + 8] for start in range(0, num_clips, 8)]
    limits = tiny_config.dataset.limits
    with ClipLoader(num_loaders, limits, side=48) as loader:
        assert sum(audit(batch, mirror, limits) for batch in loader.batches(wanted)) == num_clips


def test_a_student_of_fewer_frames_is_proved_too(request_of, check):
    assert check(request_of(3, 1, frame_stride=2)) == 1


def test_unproved_clips_are_not_looked_at(request_of, check):
    request = request_of(3, prove=False)
    assert check(request, replace(request.view, flip=not request.view.flip)) == 0


def shifted(view: View, **sides: int) -> View:
    return replace(
        view, box=replace(view.box, **{k: getattr(view.box, k) + d for k, d in sides.items()})
    )


def late(view: View, frames: int) -> View:
    return replace(view, frame_indices=tuple(index + frames for index in view.frame_indices))


# What a faulty loader might decode while its request is right, and the cause that is named.
FAULTS = {
    "student sees frames 1 late": lambda view: late(view, 1),
    "student sees frames 1 early": lambda view: late(view, -1),
    "student sees the other flip": lambda view: replace(view, flip=not view.flip),
    **{
        f"crop whose {side} is off by {change:+d} px": lambda view, side=side, change=change: (
            shifted(view, **{side: change})
        )
        for side in ("left", "top", "width", "height")
        for change in (-1, 1)
    },
}


@pytest.fixture(scope="module")
def inner_request(dataset, request_of) -> ClipRequest:
    """A view that touches neither an edge of the picture nor an end of the video."""
    for row in dataset.manifest.rows_of("train"):
        for index in range(3):
            request = request_of(row, index)
            box, record, frames = request.view.box, request.record, request.view.frame_indices
            if (
                min(box.top, box.left, frames[0]) > 0
                and box.top + box.height < record.height
                and box.left + box.width < record.width
                and frames[-1] + 1 < record.num_frames
            ):
                return request
    raise AssertionError("no such view")


@pytest.mark.parametrize("fault", FAULTS)
def test_other_pixels_are_caught_and_the_cause_is_named(fault, inner_request, check):
    with pytest.raises(ViewMismatch, match=re.escape(fault)) as caught:
        check(inner_request, FAULTS[fault](inner_request.view))
    assert f"{inner_request.record.sample_id} (" in str(caught.value)
    assert "the pixels of frames" in str(caught.value)


@pytest.mark.parametrize("fault", list(FAULTS)[1:4])
def test_the_cause_is_named_when_the_teacher_is_at_fault(fault, inner_request, mirror, tiny_config):
    """The store holds what a faulty teacher saw; the student is right."""
    limits = tiny_config.dataset.limits
    record, view = inner_request.record, inner_request.view
    wrong, right = (
        clips_of(record, [seen], limits, side=24)[0].frame_crc.tolist()
        for seen in (FAULTS[fault](view), view)
    )
    told = diagnose(inner_request, wrong, right, mirror, limits)
    assert "The teacher saw" in told
    assert fault.removeprefix("student sees ") in told


@pytest.mark.parametrize("stride", [1, 2])
def test_a_view_off_by_one_is_named(stride, dataset, request_of, check, tiny_config):
    request = request_of(5, 1, frame_stride=stride)
    other = build_view(tiny_config.views, request.record, 2, num_frames=4)
    with pytest.raises(ViewMismatch, match=r"decoded row 5, view 2 instead of row 5, view 1"):
        check(request, other.every(stride))
    believed = replace(request, view=replace(other, view_index=1))
    with pytest.raises(ViewMismatch, match=r"the view of row 5, view 2 in the store"):
        check(believed)
    with pytest.raises(ViewMismatch, match=r"the view of row 5, view 1 in the store"):
        check(replace(request, row=7))


def test_another_reading_of_colours_is_named(inner_request, mirror, tiny_config):
    limits = tiny_config.dataset.limits
    record, view = inner_request.record, inner_request.view
    (clip,) = clips_of(record, [view], limits, side=24)
    right, told = clip.frame_crc.tolist(), []
    for colours in COLOURS.values():
        frames = dict(video.frames_of(record, view.frame_indices, limits, colours=colours))
        read = [crc_of(frames[index], view) for index in view.frame_indices]
        if read != right:  # some are how this file's colours are read anyway
            told.append(diagnose(inner_request, right, read, mirror, limits))
    assert len(told) >= 2
    assert all("The student reads colours" in words for words in told)


def test_pixels_that_nothing_explains_are_put_down_to_the_decoder(
    inner_request, mirror, tiny_config
):
    right = clips_of(inner_request.record, [inner_request.view], VideoLimits(), side=24)[0]
    crc, limits = right.frame_crc.tolist(), tiny_config.dataset.limits
    assert "another decoder" in diagnose(inner_request, crc, [1, 2, 3, 4], mirror, limits)


def other_jitter(view: View) -> View:
    (jitter,) = view.jitters
    return replace(view, jitters=(replace(jitter, hue=jitter.hue + 1),))


@pytest.mark.parametrize("fault", [*FAULTS, "jitter"])
def test_another_view_is_caught(fault, inner_request, check):
    other = FAULTS.get(fault, other_jitter)(inner_request.view)
    with pytest.raises(ViewMismatch, match=r"jitter or mixing are not those[\s\S]*policy or seed"):
        check(replace(inner_request, view=other))


@pytest.mark.parametrize(
    "edit",
    [{"seed": 1}, {"flip_probability": 1.0}, {"min_area": 0.1}, {"jitter_hue": 0.2}],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edited_policy_is_caught(edit, dataset, tiny_config, check):
    """By some view at least: a probability leaves those that fall as they did."""
    policy = tiny_config.views.model_copy(update=edit)
    caught = 0
    for row in dataset.manifest.rows_of("train")[:8]:
        record = dataset.manifest.records[row]
        view = build_view(policy, record, 0, num_frames=4)
        try:
            check(ClipRequest(row, record, view, prove=True))
        except ViewMismatch:
            caught += 1
    assert caught >= 2


def test_a_view_that_the_store_lacks_is_refused(request_of, check):
    with pytest.raises(StoreIncomplete, match=r"with the views that are wanted"):
        check(request_of(5, 3))


def test_a_video_that_was_encoded_again_is_caught(request_of, check, make_video, tmp_path):
    """By its bytes where they are compared, and by its pixels when it was indexed again."""
    request = request_of(5)
    number = request.record.num_frames
    path = make_video(tmp_path / "again.avi", number, options={"qscale": "9"})
    again = replace(request.record, uri=str(path))
    with pytest.raises(VideoDecodeError) as caught:
        check(replace(request, record=again))
    assert caught.value.status == Status.CHANGED
    indexed = probe_video(again, VideoLimits())
    with pytest.raises(ViewMismatch, match="pixels"):
        check(replace(request, record=indexed))


def test_audited_rows_are_a_share_that_a_resumed_run_finds_again():
    chosen = [
        (epoch, row)
        for epoch in range(20)
        for row in range(200)
        if is_audited(0, epoch, row, 1 / 16)
    ]
    assert 180 < len(chosen) < 320
    assert chosen == [(e, r) for e in range(20) for r in range(200) if is_audited(0, e, r, 1 / 16)]
    assert len({row for _, row in chosen}) > 120
    assert all(is_audited(3, 0, row, 1.0) for row in range(100))
    assert not any(is_audited(3, 0, row, 0.0) for row in range(100))
