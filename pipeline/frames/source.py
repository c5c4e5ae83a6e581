"""The one door to pixels: frames of a video file, or of its candidates in a frame store.

``frames.source`` names the manifest that the stages after indexing start from: that of the videos,
or that of prepared frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.config.schema import ExperimentConfig, VideoLimits
from pipeline.dataset.manifest import Manifest, VideoRecord, read_manifest
from pipeline.frames import prepared, video
from pipeline.frames.store import frames_identity, open_frame_store
from pipeline.frames.upright import Frame

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
        StoreCorrupt: if a file of prepared frames is damaged.

    """
    if record.prepared:
        return prepared.frames_of(record, frame_indices, verify=verify)
    return video.frames_of(record, frame_indices, limits, verify=verify)


def read_videos(config: ExperimentConfig) -> Manifest:
    """Read the manifest of the video files.

    Raises:
        StoreIncomplete: if there is none.
        DatasetError: if it is damaged.

    """
    return read_manifest(config.manifest_uri, root=config.dataset.root)


def read_source(config: ExperimentConfig) -> Manifest:
    """Read the manifest that ``frames.source`` names.

    Raises:
        StoreIncomplete: if it is not there, or the frame store is not sealed.
        FingerprintMismatch: if the frames were prepared otherwise, or from other videos.
        DatasetError, StoreCorrupt: if it is damaged.

    """
    videos = read_videos(config)
    if config.frames.source == "videos":
        return videos
    store = open_frame_store(config.frames_uri)
    store.check_identity(frames_identity(config, videos))
    return store.manifest
