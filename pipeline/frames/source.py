"""The one door to pixels: frames of a video file, or of its candidates in a frame store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config.load import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames import prepared, video
from pipeline.frames.video import Frame

__all__ = ["Frame", "frames_of"]


def frames_of(
    record: VideoRecord, frame_indices: Sequence[int], limits: VideoLimits, *, verify: bool = True
) -> Iterator[tuple[int, Frame]]:
    """Yield ``(index, frame)`` for each wanted index, in increasing order.

    Args:
        record: the video, as the manifest of its source describes it.
        frame_indices: positions in that source, in any order; doubles count once.
        limits: guards on the decoder of video files.
        verify: compare the bytes with the record's sha256 first.

    Raises:
        VideoDecodeError: if the bytes are not those of the manifest, or a wanted frame is missing.

    """
    if record.prepared:
        return prepared.frames_of(record, frame_indices, verify=verify)
    return video.frames_of(record, frame_indices, limits, verify=verify)
