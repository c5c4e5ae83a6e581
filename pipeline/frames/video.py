"""The frames of a video file, by PyAV.

Frames are identified by counting decoded frames in presentation order, from the first, with one
decoding thread: never by time (no time in an AVI file can be trusted), by seeking or by
``frame.index``. A video is read whole into memory first, so that local files and objects in a
bucket take one path, and the bytes that are decoded are the bytes that were hashed.

This runs inside a decoding process (``pipeline.views.decoder``): a broken file may crash or hang
the decoder, and then only that process is lost.
"""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.skipping import (
    CannotPlan,
    decode_wanted,
    labelled_packets,
    number_of,
    plan_pictures,
    skipping_is_safe,
)
from pipeline.storage.files import read_bytes, sha256_of, size_bytes

Frame = npt.NDArray[np.uint8]  # (H, W, 3), RGB, upright

# PyAV raises these on broken files, besides its own errors.
DECODER_ERRORS = (av.FFmpegError, IndexError, ValueError)
# A "video" may be a playlist of other files, whose bytes were never hashed; no protocol opens them.
NO_OTHER_FILES = {"protocol_whitelist": "none"}
AS_THE_FILE_SAYS: Mapping[str, int] = MappingProxyType({})


def probe_video(record: VideoRecord, limits: VideoLimits) -> VideoRecord:
    """Decode a video to its end and fill in the facts of its manifest row.

    Raises:
        VideoDecodeError: if it is missing, unreadable, over a limit, or ends before it says.

    """
    content = _read_content(record, limits)
    with _opened(record, content, limits) as (container, stream):
        frames = _guarded(record, _labelled_frames(container, stream), limits)
        first = last = next(frames, None)
        if first is None:
            raise _error(record, Status.UNREADABLE, "holds no picture that can be decoded")
        shown = [number_of(first)]
        for last in frames:
            shown.append(number_of(last))
        if len(shown) < stream.frames and _ends_early(stream, last):
            reason = f"is truncated: {len(shown)} frames of the {stream.frames} that it declares"
            raise _error(record, Status.UNREADABLE, reason)
        quarter_turns = _quarter_turns(first)
        sides = (first.width, first.height)
        probed = replace(
            record,
            num_frames=len(shown),
            width=sides[quarter_turns % 2],
            height=sides[1 - quarter_turns % 2],
            frame_rate=float(stream.average_rate or 0.0),
            rotation=90 * quarter_turns,
            codec=stream.codec_context.name,
            num_bytes=len(content),
            sha256=sha256_of(content),
        )
    with _opened(record, content, limits) as (container, stream):
        return replace(probed, skippable=skipping_is_safe(container, stream, shown))


def frames_of(
    record: VideoRecord,
    frame_indices: Sequence[int],
    limits: VideoLimits,
    *,
    verify: bool = True,
    colours: Mapping[str, int] = AS_THE_FILE_SAYS,
) -> Iterator[tuple[int, Frame]]:
    """Yield ``(index, frame)`` for each wanted index, in increasing order, from one decode pass.

    Only one frame at a time is in memory, however many views want frames.

    Args:
        record: the video, as its manifest row describes it.
        frame_indices: positions in presentation order, in any order; doubles count once.
        limits: guards on the decoder.
        verify: compare the bytes with the manifest's sha256 first.
        colours: how stored colours are read: arguments of PyAV's ``reformat``.

    Raises:
        VideoDecodeError: if the file is not the one in the manifest, or lacks a wanted frame.

    """
    content = _read_content(record, limits)
    if len(content) != record.num_bytes or (verify and sha256_of(content) != record.sha256):
        raise _error(record, Status.CHANGED, "is not the file that was indexed; index it again")
    wanted = sorted(set(frame_indices))
    converter = VideoReformatter()  # one for all: making one costs more than converting a frame
    for index, frame in _wanted_frames(record, content, wanted, limits):
        yield index, _upright(frame, converter, colours)


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
    with _opened(record, content, limits) as (container, stream):
        try:
            pictures = plan_pictures(container, stream)
            if len(pictures) != record.num_frames:
                return
            for frame in _guarded(record, decode_wanted(pictures, stream, set(wanted)), limits):
                position = number_of(frame)
                if not left or position is None or not previous < position <= left[0]:
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
    with _opened(record, content, limits) as (container, stream):
        frames = _guarded(record, container.decode(stream), limits)
        position = -1
        for index in wanted:
            frame = None
            while position < index:
                frame = next(frames, None)
                position += 1
                if frame is None:
                    reason = f"ended at frame {position}; its manifest row says {record.num_frames}"
                    raise _error(record, Status.TOO_SHORT, reason)
            yield index, frame


def _read_content(record: VideoRecord, limits: VideoLimits) -> bytes:
    try:
        num_bytes = size_bytes(record.uri)
        if num_bytes > limits.max_bytes:
            reason = f"has {num_bytes} bytes; the limit is {limits.max_bytes}"
            raise _error(record, Status.OVER_LIMIT, reason)
        return read_bytes(record.uri)
    except FileNotFoundError:
        raise _error(record, Status.NOT_FOUND, "is not there") from None
    except NotADirectoryError:
        raise _error(record, Status.NOT_FOUND, "lies below a file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise _error(record, Status.UNREADABLE, f"cannot be read: {error.strerror}") from None


@contextmanager
def _opened(record: VideoRecord, content: bytes, limits: VideoLimits) -> Iterator[tuple[Any, Any]]:
    """Open a video and its stream; errors of PyAV inside become a ``VideoDecodeError``."""
    try:
        with av.open(io.BytesIO(content), mode="r", options=NO_OTHER_FILES) as container:
            if not container.streams.video:
                raise _error(record, Status.NO_VIDEO_STREAM, "has no video stream")
            stream = container.streams.video[0]
            _check_limits(record, stream, container, limits)
            stream.codec_context.thread_count = 1
            yield container, stream
    except DECODER_ERRORS as error:
        raise _error(record, Status.UNREADABLE, f"cannot be decoded: {error}") from error


def _labelled_frames(container: Any, stream: Any) -> Iterator[Any]:
    for packet in labelled_packets(container, stream):
        yield from packet.decode()


def _check_limits(record: VideoRecord, stream: Any, container: Any, limits: VideoLimits) -> None:
    context = stream.codec_context
    if context is None:  # PyAV has no decoder for it; touching the context would crash
        raise _error(record, Status.UNREADABLE, "has a codec that is not known here")
    pixels = context.width * context.height
    seconds = (container.duration or 0) / av.time_base
    if pixels == 0:
        raise _error(record, Status.UNREADABLE, "does not say how large its pictures are")
    if pixels > limits.max_pixels:
        reason = (
            f"has pictures of {context.width} x {context.height}; the limit is {limits.max_pixels}"
        )
        raise _error(record, Status.OVER_LIMIT, f"{reason} pixels")
    if seconds > limits.max_duration_seconds:
        reason = f"lasts {seconds:.0f} s; the limit is {limits.max_duration_seconds:.0f} s"
        raise _error(record, Status.OVER_LIMIT, reason)


def _ends_early(stream: Any, last: Any) -> bool:
    """Return whether the last frame comes over two frames before the declared end.

    Fewer frames than declared do not show that: an mp4 that was cut without encoding it again
    counts the hidden frames before its start, and an AVI those that were dropped.
    """
    if last.pts is None or stream.duration is None or not stream.average_rate:
        return True
    left = (stream.start_time or 0) + stream.duration - last.pts
    return bool(left * stream.time_base > 3 / stream.average_rate)  # one is its own duration


def _guarded(record: VideoRecord, frames: Iterator[Any], limits: VideoLimits) -> Iterator[Any]:
    """Stop a stream of frames that exceeds the limits in number, size or time."""
    deadline = time.monotonic() + limits.decode_seconds
    for position, frame in enumerate(frames):
        if position >= limits.max_frames:
            raise _error(record, Status.OVER_LIMIT, f"has over {limits.max_frames} frames")
        if frame.width * frame.height > limits.max_pixels:
            raise _error(record, Status.OVER_LIMIT, "grows over the limit of pixels on its way")
        if time.monotonic() > deadline:
            raise _error(record, Status.TIMED_OUT, f"took over {limits.decode_seconds:.0f} s")
        yield frame


def _quarter_turns(frame: Any) -> int:
    """Return how often the stored picture must be turned by 90 degrees, counter-clockwise."""
    return int(round(frame.rotation / 90) % 4)


def _upright(frame: Any, converter: VideoReformatter, colours: Mapping[str, int]) -> Frame:
    converted = converter.reformat(frame, format="rgb24", threads=1, **colours)
    picture = np.asarray(converted.to_ndarray(), np.uint8)
    turns = _quarter_turns(frame)
    return np.rot90(picture, turns) if turns else picture


def _error(record: VideoRecord, status: Status, reason: str) -> VideoDecodeError:
    return VideoDecodeError(record.sample_id, record.uri, reason, status)
