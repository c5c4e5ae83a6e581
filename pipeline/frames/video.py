"""The frames of a video file, by PyAV.

Frames are identified by counting decoded frames in presentation order, from the first, with one
decoding thread: never by time (no time in an AVI file can be trusted), by seeking or by
``frame.index``. A video is read whole into memory first, so that local files and objects in a
bucket take one path, and the bytes that are decoded are the bytes that were hashed.

This runs inside a decoding process (``pipeline.views.decoder``): a broken file may crash or hang
the decoder, and then only that process is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status
from pipeline.frames.length import Length
from pipeline.frames.opening import (
    DECODER_ERRORS,
    frame_rate_of,
    guarded,
    opened,
    read_content,
    reason_of,
    video_error,
)
from pipeline.frames.pictures import AS_THE_FILE_SAYS, Frame, Upright, rotation_of, upright_size
from pipeline.frames.skipping import (
    CannotPlan,
    decode_wanted,
    labelled_packets,
    number_of,
    plan_pictures,
    skipping_is_safe,
)
from pipeline.storage.files import sha256_of

_VERIFIED: set[int] = set()  # files that this process has read and compared, by their hash


def probe_video(record: VideoRecord, limits: VideoLimits) -> VideoRecord:
    """Decode a video to its end and fill in the facts of its manifest row.

    A ``VideoDecodeError`` has the facts that the header tells.
    """
    content = read_content(record, limits)
    with opened(record, content, limits) as (container, stream):
        length = Length(container, stream, content)
        shown, sizes, damaged, first, last = [], set(), False, None, None
        for last in guarded(record, _all_frames(record, length, stream), limits):
            first = first or last
            shown.append(number_of(last))
            sizes.add(upright_size(last))
            damaged |= last.is_corrupt
        if fault := length.fault(last, len(shown)):
            raise video_error(record, Status.UNREADABLE, fault)
        width, height = upright_size(first)
        notes = {
            "size_changes": len(sizes) > 1,
            "damaged_pictures": damaged,
            "length_not_declared": not length.is_declared(len(shown)),
        }
        probed = replace(
            record,
            num_frames=len(shown),
            width=width,
            height=height,
            frame_rate=frame_rate_of(stream),
            rotation=rotation_of(first),
            codec=stream.codec_context.codec.canonical_name,
            num_bytes=len(content),
            sha256=sha256_of(content),
            notes=",".join(note for note, holds in notes.items() if holds),
        )
    with opened(record, content, limits) as (container, stream):
        skippable = len(sizes) == 1 and skipping_is_safe(container, stream, shown)
        return replace(probed, skippable=skippable)


def _all_frames(record: VideoRecord, length: Length, stream: Any) -> Iterator[Any]:
    """Yield every frame; end quietly in a packet that the end of the file cut off."""
    position = 0
    try:
        for packet in labelled_packets(length.packets(), stream):
            for frame in packet.decode():
                yield frame
                position += 1
    except DECODER_ERRORS as error:
        if not length.cut:
            reason = f"is damaged at frame {position}: {reason_of(error)}"
            raise video_error(record, Status.UNREADABLE, reason) from error


def frames_of(
    record: VideoRecord,
    frame_indices: Sequence[int],
    limits: VideoLimits,
    *,
    verify: bool = True,
    colours: Mapping[str, int] = AS_THE_FILE_SAYS,
) -> Iterator[tuple[int, Frame]]:
    """Yield ``(index, frame)`` for each wanted index, in increasing order, from one decode pass.

    Only one frame at a time is in memory, however many views want frames. The bytes are compared
    with the manifest's sha256 when this process reads the file for the first time, and with
    ``verify`` always. ``colours`` are arguments of PyAV's ``reformat``.

    VideoDecodeError if the file is not the one in the manifest, or lacks a wanted frame.
    """
    content, file = read_content(record, limits), hash((record.uri, record.sha256))
    verify = verify or file not in _VERIFIED
    if len(content) != record.num_bytes or (verify and sha256_of(content) != record.sha256):
        reason = "is not the file that was indexed; index it again"
        raise video_error(record, Status.CHANGED, reason)
    _VERIFIED.add(file)
    upright = Upright(record.width, record.height, colours)
    for index, frame in _wanted_frames(record, content, sorted(set(frame_indices)), limits):
        yield index, upright(frame)


def _wanted_frames(
    record: VideoRecord, content: bytes, wanted: Sequence[int], limits: VideoLimits
) -> Iterator[tuple[int, Any]]:
    """Yield wanted frames in order, in the cheapest way that is known to be exact."""
    num_found = 0
    if record.skippable:
        for index, frame in _skipping(record, content, wanted, limits):
            yield index, frame
            num_found += 1
    if num_found < len(wanted):
        yield from _sequential(record, content, wanted[num_found:], limits)


def _skipping(
    record: VideoRecord, content: bytes, wanted: Sequence[int], limits: VideoLimits
) -> Iterator[tuple[int, Any]]:
    """Yield wanted frames in order, skipping pictures they do not need; end at any surprise."""
    left, previous = deque(wanted), -1
    with opened(record, content, limits) as (container, stream):
        try:
            pictures = plan_pictures(container, stream)
            if len(pictures) != record.num_frames:
                return
            for frame in guarded(record, decode_wanted(pictures, stream, set(wanted)), limits):
                position = number_of(frame)
                if not left or position is None or not previous < position <= left[0]:
                    return
                if upright_size(frame) != (record.width, record.height):
                    return
                previous = position
                if position == left[0]:
                    yield left.popleft(), frame
        except (CannotPlan, *DECODER_ERRORS):
            return  # the sequential pass that follows yields the frames, or raises the right error


def _sequential(
    record: VideoRecord, content: bytes, wanted: Sequence[int], limits: VideoLimits
) -> Iterator[tuple[int, Any]]:
    """Yield wanted frames, in order, by decoding and counting all."""
    with opened(record, content, limits) as (container, stream):
        frames = guarded(record, container.decode(stream), limits)
        position = -1
        for index in wanted:
            frame = None
            while position < index:
                frame = next(frames, None)
                position += 1
                if frame is None:
                    reason = f"ended at frame {position}; its manifest row says {record.num_frames}"
                    raise video_error(record, Status.TOO_SHORT, reason)
                size = upright_size(frame)
                if position == 0 and size != (record.width, record.height):
                    # An older version wrote the row: it chose another stream, or did not turn it.
                    reason = f"has pictures of {size[0]} x {size[1]}, and {record.width} x"
                    reason += f" {record.height} by its row; index it again"
                    raise video_error(record, Status.CHANGED, reason)
            yield index, frame
