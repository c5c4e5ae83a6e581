"""The candidates of a video: chosen, shrunk once and encoded.

This runs inside a decoding process (``pipeline.views.decoder``), so that JPEGs travel between
processes and pictures do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.config.schema import FramesConfig, VideoLimits
from pipeline.dataset.manifest import PREPARED, VideoRecord
from pipeline.frames.pictures import encode_jpeg, resized
from pipeline.frames.video import frames_of
from pipeline.storage.files import sha256_of


@dataclass(frozen=True)
class PreparedVideo:
    """The candidates of a video.

    ``record`` is its row in the prepared manifest, still without a URI. ``frame_indices`` are the
    positions of the JPEGs in the video file. A bad video has neither.
    """

    record: VideoRecord
    frame_indices: tuple[int, ...] = ()
    jpegs: tuple[bytes, ...] = ()


def prepare_video(
    record: VideoRecord, limits: VideoLimits, *, frames: FramesConfig
) -> PreparedVideo:
    """Prepare a video in one decode pass.

    Raises:
        VideoDecodeError: if the file is not the one in the manifest, or lacks a wanted frame.
    """
    height, width = stored_size(record.height, record.width, frames.short_side)
    indices = candidate_indices(record.num_frames, frames.num_candidates)
    jpegs = tuple(
        encode_jpeg(resized(frame, height, width), frames.quality)
        for _, frame in frames_of(record, indices, limits, verify=True)
    )
    content = b"".join(jpegs)
    prepared = replace(
        record,
        uri="",
        num_frames=len(jpegs),
        width=width,
        height=height,
        frame_rate=record.frame_rate * len(jpegs) / record.num_frames,
        rotation=0,
        codec=PREPARED,
        num_bytes=len(content),
        sha256=sha256_of(content),
    )
    return PreparedVideo(prepared, indices, jpegs)


def candidate_indices(num_frames: int, num_candidates: int) -> tuple[int, ...]:
    """Return the centres of ``num_candidates`` equal segments; all frames if there are fewer."""
    if num_frames <= num_candidates:
        return tuple(range(num_frames))
    return tuple((2 * i + 1) * num_frames // (2 * num_candidates) for i in range(num_candidates))


def stored_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return height and width once the short side is ``short_side``; nothing is enlarged."""
    short = min(height, width)
    if short <= short_side:
        return height, width
    return _scaled(height, short_side, short), _scaled(width, short_side, short)


def _scaled(length: int, numerator: int, denominator: int) -> int:
    return (2 * length * numerator + denominator) // (2 * denominator)  # rounded half up
