"""Which manifest the stages after indexing start from: of the videos, or of prepared frames."""

from __future__ import annotations

from pipeline.config.load import ExperimentConfig
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.frames.store_layout import frames_identity
from pipeline.frames.store_reader import open_frame_store


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
