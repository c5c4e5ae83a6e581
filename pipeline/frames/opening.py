"""An opened video file: its bytes, the video stream that is read, and its limits.

A file that cannot be opened gets a reason that a person can act on. The error carries the facts
that its header gave before (``VideoDecodeError.facts``).
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.stream import Disposition

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.length import declared_seconds
from pipeline.storage.files import read_bytes, size_bytes

# PyAV raises these on broken files, besides its own errors.
DECODER_ERRORS = (av.FFmpegError, IndexError, ValueError)
# A "video" may be a playlist of other files, whose bytes were never hashed; no protocol opens them.
NO_OTHER_FILES = {"protocol_whitelist": "none"}
# Where a picture of HEVC cannot be decoded, libav shows whatever its memory held, unless told so.
OPTIONS = {"hevc": {"err_detect": "explode"}}
PICTURES_FOR_SHOW = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art

LFS_POINTER = b"version https://git-lfs"
TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")  # no header of a video lacks control characters
# Files that are often downloaded instead of a video, by their first bytes.
NO_VIDEOS = {
    b"<": "an HTML or XML page",
    b"{": "a JSON text",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"%PDF": "a PDF",
}


def video_error(record: VideoRecord, status: Status, reason: str) -> VideoDecodeError:
    return VideoDecodeError(record.sample_id, record.uri, reason, status)


def reason_of(error: Exception) -> str:
    """Return an error of PyAV without its number."""
    return str(getattr(error, "strerror", None) or error)


def read_content(record: VideoRecord, limits: VideoLimits) -> bytes:
    """Read a video file whole, within the limit."""
    if "::" in record.uri and "://" not in record.uri:
        reason = "has '::' in its path, which stands between two URIs: rename it"
        raise video_error(record, Status.UNREADABLE, reason)
    try:
        num_bytes = size_bytes(record.uri)
        if num_bytes > limits.max_bytes:
            reason = f"has {num_bytes} bytes; the limit is {limits.max_bytes}"
            raise video_error(record, Status.OVER_LIMIT, reason)
        return read_bytes(record.uri)
    except FileNotFoundError:
        raise video_error(record, Status.NOT_FOUND, "is not there") from None
    except NotADirectoryError:
        raise video_error(record, Status.NOT_FOUND, "lies below a file") from None
    except OSError as error:  # a folder, no permission, links in a circle
        reason = f"cannot be read: {reason_of(error)}"
        raise video_error(record, Status.UNREADABLE, reason) from None


@contextmanager
def opened(record: VideoRecord, content: bytes, limits: VideoLimits) -> Iterator[tuple[Any, Any]]:
    """Open a video and its stream; errors of PyAV inside become a ``VideoDecodeError``."""
    facts: dict[str, Any] = {"num_bytes": len(content)}
    try:
        with av.open(
            io.BytesIO(content),
            options=NO_OTHER_FILES,
            metadata_errors="replace",  # a title in Latin-1 is no fault
        ) as container:
            if not container.streams.video and (reason := _why_no_video(content)):
                raise video_error(record, Status.UNREADABLE, reason)
            stream = _chosen_stream(record, container)
            facts |= _header_facts(stream)
            _check_limits(record, stream, container, limits)
            stream.codec_context.thread_count = 1
            stream.codec_context.options = OPTIONS.get(stream.codec_context.name, {})
            yield container, stream
    except DECODER_ERRORS as error:
        known = None if "codec" in facts else _why_no_video(content)
        reason = known or f"cannot be decoded: {reason_of(error)}"
        failure = video_error(record, Status.UNREADABLE, reason)
        failure.facts = facts
        raise failure from error
    except VideoDecodeError as error:
        error.facts = facts
        raise


def _chosen_stream(record: VideoRecord, container: Any) -> Any:
    """Choose as players do: no cover picture, the default stream, then the largest."""
    streams = [s for s in container.streams.video if not s.disposition & PICTURES_FOR_SHOW]
    if not streams:
        also = " but a cover picture" if container.streams.video else ""
        raise video_error(record, Status.NO_VIDEO_STREAM, f"has no video stream{also}")
    # Later streams win no tie: max() returns the first.
    return max(streams, key=lambda s: (bool(s.disposition & Disposition.default), _num_pixels(s)))


def _num_pixels(stream: Any) -> int:
    context = stream.codec_context  # None if PyAV has no decoder; touching it would crash
    return context.width * context.height if context else 0


def _header_facts(stream: Any) -> dict[str, Any]:
    """Return what the header says of a manifest row; the size is as stored, not upright."""
    context = stream.codec_context
    if context is None:
        return {"codec": "unknown"}
    return {
        "codec": context.codec.canonical_name,
        "width": context.width,
        "height": context.height,
        "frame_rate": frame_rate_of(stream),
    }


def frame_rate_of(stream: Any) -> float:
    """Return the mean frame rate by the header, or else libav's guess (Ogg); 0 without either."""
    return float(stream.average_rate or stream.guessed_rate or 0.0)


def _check_limits(record: VideoRecord, stream: Any, container: Any, limits: VideoLimits) -> None:
    context = stream.codec_context
    if context is None:
        raise video_error(record, Status.UNREADABLE, "has a codec that is not known here")
    if _num_pixels(stream) == 0:
        raise video_error(record, Status.UNREADABLE, "does not say how large its pictures are")
    if _num_pixels(stream) > limits.max_pixels:
        size = f"{context.width} x {context.height}"
        reason = f"has pictures of {size}; the limit is {limits.max_pixels} pixels"
        raise video_error(record, Status.OVER_LIMIT, reason)
    _check_length(record, declared_seconds(container, stream) or 0.0, limits)


def guarded(record: VideoRecord, frames: Iterator[Any], limits: VideoLimits) -> Iterator[Any]:
    """Stop a stream of frames that exceeds the limits in number, size, length or decoding time."""
    spent, resumed, start = 0.0, time.monotonic(), None
    for position, frame in enumerate(frames):
        spent += time.monotonic() - resumed
        if position >= limits.max_frames:
            raise video_error(record, Status.OVER_LIMIT, f"has over {limits.max_frames} frames")
        if frame.width * frame.height > limits.max_pixels:
            raise video_error(record, Status.OVER_LIMIT, "grows over the limit of pixels")
        if frame.time is not None:
            start = frame.time if start is None else start
            _check_length(record, frame.time - start, limits)
        if spent > limits.decode_seconds:
            raise video_error(record, Status.TIMED_OUT, f"took over {limits.decode_seconds:.0f} s")
        yield frame
        resumed = time.monotonic()


def _check_length(record: VideoRecord, seconds: float, limits: VideoLimits) -> None:
    if seconds > limits.max_duration_seconds:
        reason = f"lasts {seconds:.0f} s; the limit is {limits.max_duration_seconds:.0f} s"
        raise video_error(record, Status.OVER_LIMIT, reason)


# --- why a file is no video -----------------------------------------------------------------------


def _why_no_video(content: bytes) -> str | None:
    """Return what is wrong with a file that cannot be opened; None if that is not known."""
    if not content:
        return "is empty (0 bytes): copy or download it again"
    if content.startswith(LFS_POINTER):
        return "is a git LFS pointer and not the video: run `git lfs pull`"
    start = content[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, kind in NO_VIDEOS.items():
        if start.startswith(mark):
            return f"is {kind} and not a video: download it again"
    if not content.strip(b"\0"):
        return "holds nothing but zeros: copy or download it again"
    if TEXT.fullmatch(content, 0, 512):
        return "is a text and not a video"
    if content[4:8] in (b"ftyp", b"mdat", b"wide") and not _has_whole_moov(content):
        return "its index (moov) is missing: the recording or the copy was cut off"
    return None


def _has_whole_moov(content: bytes) -> bool:
    """Walk the outer boxes of an mp4."""
    place = 0
    while place + 8 <= len(content):
        num_bytes, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        if num_bytes == 1:
            num_bytes = int.from_bytes(content[place + 8 : place + 16])
        if kind == b"moov":
            return place + num_bytes <= len(content)
        if num_bytes < 8:
            return False  # 0: to the end of the file
        place += num_bytes
    return False
