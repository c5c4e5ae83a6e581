"""Proof of view, that the student's clip is the one that the teacher saw; diagnosis of failures.

The store holds, for every row and view, a digest of the view's parameters and the CRC of every
cropped frame. A student recomputes them for a sampled share of its clips, with no teacher and no
GPU. Accuracy would hardly show a mismatch (a target of the wrong view costs some 0.3 points), so
only a proof will do.

To diagnose a failure, the video is decoded once more with everything that is known to go wrong:
frames early and late, crops a pixel off, the other flip, colours read in another range. The fault
that gives the student's CRCs is the student's; the one that gives the store's was the teacher's.
Only CRCs are compared, so a named cause is a fact and not a guess. This takes up to a second, once,
before training stops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from av.video.reformatter import ColorRange, Colorspace

from pipeline.config.schema import VideoLimits
from pipeline.errors import VideoDecodeError, ViewMismatch
from pipeline.frames import video
from pipeline.frames.pictures import Frame
from pipeline.frames.source import frames_of
from pipeline.logits.mirror import Mirror
from pipeline.views.clip import Clip, crc_of
from pipeline.views.loader import ClipBatch, ClipRequest
from pipeline.views.view import View, kept_places, keyed_hash

MAX_SHIFT = 3  # frames
COLOURS: dict[str, Mapping[str, int]] = {
    "colours in full range": {"src_color_range": ColorRange.JPEG},
    "colours in limited range": {"src_color_range": ColorRange.MPEG},
    "colours written in limited range": {"dst_color_range": ColorRange.MPEG},
    "colours as of ITU-R 601": {"src_colorspace": Colorspace.ITU601},
    "colours as of ITU-R 709": {"src_colorspace": Colorspace.ITU709},
}
Frames = Mapping[int, Frame]
CRCs = list[int]


def is_audited(seed: int, epoch: int, row: int, rate: float) -> bool:
    """Return whether a row is audited in an epoch; a resumed run audits the same rows."""
    return keyed_hash(seed, "audit", epoch, row) % 2**32 < rate * 2**32


def audit(batch: ClipBatch, mirror: Mirror, limits: VideoLimits) -> int:
    """Check the proved clips of a batch against the store; return how many there were.

    A ViewMismatch names the sample, the frames that differ and the likely cause. ``limits`` guard
    the decoder, which runs again to find it.
    """
    proved = [place for place, request in enumerate(batch.requests) if request.prove]
    for place in proved:
        request = batch.requests[place]
        _compare_views(request, mirror)
        _compare_pixels(request, batch.clips[place], mirror, limits)
        if request.partner is not None and batch.mixing is not None:
            clip = batch.clips[batch.mixing.partners[place]]
            _compare_pixels(request.partner, clip, mirror, limits)
    return len(proved)


def _subject(request: ClipRequest) -> str:
    record = request.record
    return f"{record.sample_id} ({record.uri}), view {request.view.view_index}"


def _compare_views(request: ClipRequest, mirror: Mirror) -> None:
    view = request.view
    digest, _ = mirror.proof_of(*request.cell)
    if view.digest != digest:
        digests = (replace(view, view_index=index).digest for index in mirror.spec.view_indices)
        cells = [cell for digest in digests if (cell := mirror.cell_of_digest(digest))]
        cause = (
            f"It is the view of row {cells[0][0]}, view {cells[0][1]} in the store: the student's "
            "rows or views are off."
            if cells
            else "No row of the store has this view: another view policy or seed, or another frame "
            "count or size of the video."
        )
        raise ViewMismatch(
            f"{_subject(request)}: frames, crop, flip, jitter or mixing are not those of the "
            f"teacher's view.\n  {cause}"
        )


def _compare_pixels(request: ClipRequest, clip: Clip, mirror: Mirror, limits: VideoLimits) -> None:
    frame_crc = mirror.pixels_of(*request.cell)
    expected = frame_crc[kept_places(len(frame_crc), request.frame_stride)]
    differing = [t for t in range(len(expected)) if expected[t] != clip.frame_crc[t]]
    if differing:
        cause = diagnose(request, expected.tolist(), clip.frame_crc.tolist(), mirror, limits)
        raise ViewMismatch(
            f"{_subject(request)}: the pixels of frames {differing} of {len(expected)} are not "
            "those that the teacher saw, although file and view are the same.\n"
            f"  {cause}"
        )


def diagnose(
    request: ClipRequest, expected: CRCs, found: CRCs, mirror: Mirror, limits: VideoLimits
) -> str:
    """Name in a sentence or two what is wrong, in the student or in the teacher.

    CRCs are of the clip's frames, in order: ``expected`` by the store, ``found`` by the student.
    """
    cell = mirror.cell_of_pixels(found, request.frame_stride)
    if cell not in (None, (request.row, request.view.view_index)):
        return (
            f"The student decoded row {cell[0]}, view {cell[1]} instead of row {request.row}, "
            f"view {request.view.view_index}: its rows or views are off."
        )
    try:
        frames = _frames_near(request, limits)
    except VideoDecodeError as error:
        return f"The video cannot be decoded any more: {error}"
    return (
        _explain(expected, found, _views(request.seen), frames)
        or _explain_colours(request, expected, found, _crc(request.seen, frames), limits)
        or "The video is the same and no known cause explains it: another decoder, most likely. "
        "Compare the version of av with the one in the store's seal."
    )


def _frames_near(request: ClipRequest, limits: VideoLimits) -> Frames:
    """Decode the view's frames and their neighbours, without checking the file's digest."""
    indices = {
        index + shift
        for index in request.seen.frame_indices
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1)
        if 0 <= index + shift < request.record.num_frames
    }
    return dict(frames_of(request.record, sorted(indices), limits, verify=False))


def _views(view: View) -> Iterator[tuple[str, View]]:
    """Yield the view itself under an empty name, then each fault's name and the view it gives."""
    yield "", view
    for shift in range(1, MAX_SHIFT + 1):
        for signed, word in ((shift, "late"), (-shift, "early")):
            frames = tuple(index + signed for index in view.frame_indices)
            yield f"frames {shift} {word}", replace(view, frame_indices=frames)
    yield "the other flip", replace(view, flip=not view.flip)
    for name in ("top", "left", "height", "width"):
        for change in (-1, 1):
            box = replace(view.box, **{name: getattr(view.box, name) + change})
            yield f"a crop whose {name} is off by {change:+d} px", replace(view, box=box)


def _explain(
    expected: CRCs, found: CRCs, views: Iterator[tuple[str, View]], frames: Frames
) -> str | None:
    for cause, view in views:
        crc = _crc(view, frames)
        if crc == found:
            if cause:
                return f"The student sees {cause}; the view is right, its decoding is wrong."
        elif crc == expected and cause:
            return f"The teacher saw {cause}: the store's views were decoded wrongly."
    return None


def _explain_colours(
    request: ClipRequest,
    expected: CRCs,
    found: CRCs,
    as_the_file_says: CRCs | None,
    limits: VideoLimits,
) -> str | None:
    if request.record.prepared:
        return None
    wanted = request.seen.frame_indices
    for cause, colours in COLOURS.items():
        frames = video.frames_of(request.record, wanted, limits, verify=False, colours=colours)
        crc = _crc(request.seen, dict(frames))
        if crc == as_the_file_says:
            continue  # this reading is the file's own
        if crc == found:
            return f"The student reads {cause}; the teacher did not."
        if crc == expected:
            return f"The teacher read {cause}; the student does not. Another version of av?"
    return None


def _crc(view: View, frames: Frames) -> CRCs | None:
    """Return the CRCs of a view, or None if it leaves the picture or the video."""
    box = view.box
    picture = next(iter(frames.values()))
    inside = (
        min(box.top, box.left) >= 0
        and box.top + box.height <= picture.shape[0]
        and box.left + box.width <= picture.shape[1]
    )
    if not inside or any(index not in frames for index in view.frame_indices):
        return None
    return [crc_of(frames[index], view) for index in view.frame_indices]
