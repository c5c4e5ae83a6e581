"""The one door to pixels: frames of a video file, or of its candidates in a frame store.

``frames.source`` names the manifest that the stages after indexing start from: that of the videos,
or that of prepared frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import Manifest, VideoRecord, read_manifest
from pipeline.errors import Status, StorageUnavailable
from pipeline.frames import video
from pipeline.frames.opening import video_error
from pipeline.frames.pictures import Frame, decode_jpeg
from pipeline.frames.prepared import local_file, mapped_jpegs, split_batch_uri
from pipeline.frames.store import frames_identity, open_frame_store
from pipeline.storage.files import sha256_of


def frames_of(
    record: VideoRecord, frame_indices: Sequence[int], limits: VideoLimits, *, verify: bool = True
) -> Iterator[tuple[int, Frame]]:
    """Yield ``(index, frame)`` for each wanted index, in increasing order.

    ``record`` and ``frame_indices`` are those of the manifest of the source. With ``verify`` the
    bytes are compared with the record's sha256. Without it a video file still is at this process's
    first visit, and a file of prepared frames is held to its seal once a job.

    VideoDecodeError if the bytes are not those of the manifest, or a wanted frame is missing;
    StoreCorrupt if a file of prepared frames, or the seal of its store, is damaged.
    """
    if record.prepared:
        return _prepared_frames(record, frame_indices, verify=verify)
    return video.frames_of(record, frame_indices, limits, verify=verify)


def fetch(record: VideoRecord) -> None:
    """Bring the file that holds a video's prepared frames to this machine, verified once a job."""
    with _bad_files_named(record):
        local_file(split_batch_uri(record.uri)[0])


def read_videos(config: ExperimentConfig) -> Manifest:
    """Read the manifest of the video files."""
    return read_manifest(config.manifest_uri, root=config.dataset.root)


def read_source(config: ExperimentConfig) -> Manifest:
    """Read the manifest that ``frames.source`` names; groups are those of the video files'.

    StoreIncomplete if it is not there, or the frame store is not sealed; FingerprintMismatch if the
    frames were prepared with other settings or from other videos; DatasetError or StoreCorrupt if
    it is damaged.
    """
    videos = read_videos(config)
    if config.frames.source == "videos":
        return videos
    store = open_frame_store(config.frames_uri)
    store.check_identity(frames_identity(config, videos))
    # Groups are no part of the identity: they may be corrected without preparing frames again.
    groups = {record.sample_id: record.group for record in videos.records}
    records = (replace(r, group=groups[r.sample_id]) for r in store.manifest.records)
    return replace(store.manifest, records=tuple(records))


def _prepared_frames(
    record: VideoRecord, frame_indices: Sequence[int], *, verify: bool
) -> Iterator[tuple[int, Frame]]:
    jpegs = _read_jpegs(record, verify=verify)
    for index in sorted(set(frame_indices)):
        if index >= len(jpegs):
            reason = f"has {len(jpegs)} prepared frames; frame {index} is wanted"
            raise video_error(record, Status.TOO_SHORT, reason)
        try:
            yield index, decode_jpeg(jpegs[index], record.height, record.width)
        except ValueError as error:
            reason = f"has a prepared frame {index} that cannot be decoded: {error}"
            raise video_error(record, Status.UNREADABLE, reason) from error


def _read_jpegs(record: VideoRecord, *, verify: bool) -> list[memoryview]:
    with _bad_files_named(record):
        file_uri, batch = split_batch_uri(record.uri)
        content, jpegs = mapped_jpegs(local_file(file_uri), batch)
    expected, found = f"{record.num_bytes} bytes", f"{len(content)} bytes"
    if verify:
        expected, found = f"sha256 {record.sha256}", f"sha256 {sha256_of(content)}"
    if found != expected:
        reason = f"does not hold the frames of its manifest: expected {expected}, found {found}; "
        raise video_error(record, Status.CHANGED, f"{reason}prepare the frames again")
    return jpegs


@contextmanager
def _bad_files_named(record: VideoRecord) -> Iterator[None]:
    """Turn an error of a file into an error of its video.

    Failing storage and a damaged store are no fault of one video. They stop the job, or hundreds of
    videos would be marked as bad.
    """
    try:
        yield
    except FileNotFoundError:
        raise video_error(record, Status.NOT_FOUND, "is not there") from None
    except ValueError as error:
        raise video_error(record, Status.UNREADABLE, f"cannot be read: {error}") from error
    except OSError as error:
        raise StorageUnavailable(f"{record.uri} cannot be read: {error}") from error
