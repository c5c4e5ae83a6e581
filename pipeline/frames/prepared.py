"""The frames of a prepared video: memory-mapped JPEGs from a frame store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.pictures import decode_jpeg
from pipeline.frames.store_files import Location, local_file, mapped_jpegs
from pipeline.frames.upright import Frame
from pipeline.storage.files import sha256_of


def frames_of(
    record: VideoRecord, frame_indices: Sequence[int], *, verify: bool = True
) -> Iterator[tuple[int, Frame]]:
    """Yield ``(index, frame)`` for each wanted candidate, in increasing order.

    Args:
        record: the video, as the prepared manifest describes it.
        frame_indices: positions among its candidates, in any order; doubles count once.
        verify: compare its JPEGs with the manifest's sha256 first.

    Raises:
        VideoDecodeError: if the JPEGs are not those of the manifest, or lack a wanted frame.
        StoreCorrupt: if the file that holds them, or the seal of its store, is damaged.

    """
    jpegs = _read_jpegs(record, verify=verify)
    for index in sorted(set(frame_indices)):
        if index >= len(jpegs):
            reason = f"has {len(jpegs)} prepared frames; frame {index} is wanted"
            raise _error(record, Status.TOO_SHORT, reason)
        try:
            yield index, decode_jpeg(jpegs[index], record.height, record.width)
        except ValueError as error:
            reason = f"has a prepared frame {index} that cannot be decoded: {error}"
            raise _error(record, Status.UNREADABLE, reason) from error


def fetch(record: VideoRecord) -> None:
    """Bring the file that holds a video's frames to this machine, and verify it, once a job.

    Raises:
        VideoDecodeError: if there is no such file.
        StoreCorrupt: if it is damaged.
        StorageUnavailable: if storage fails, or another process holds the lock for too long.

    """
    with _bad_files_named(record):
        local_file(Location.parse(record.uri).file_uri)


def _read_jpegs(record: VideoRecord, *, verify: bool) -> list[memoryview]:
    with _bad_files_named(record):
        location = Location.parse(record.uri)
        content, jpegs = mapped_jpegs(local_file(location.file_uri), location.batch)
    expected, found = f"{record.num_bytes} bytes", f"{len(content)} bytes"
    if verify:
        expected, found = f"sha256 {record.sha256}", f"sha256 {sha256_of(content)}"
    if found != expected:
        reason = f"does not hold the frames of its manifest: expected {expected}, found {found}; "
        raise _error(record, Status.CHANGED, f"{reason}prepare the frames again")
    return jpegs


@contextmanager
def _bad_files_named(record: VideoRecord) -> Iterator[None]:
    """Turn what is wrong with a file into an error of its video.

    Storage that fails is no fault of a video, and neither is a damaged store, which stops the job:
    hundreds of videos would be masked for it.
    """
    try:
        yield
    except FileNotFoundError:
        raise _error(record, Status.NOT_FOUND, "is not there") from None
    except (OSError, ValueError) as error:
        raise _error(record, Status.UNREADABLE, f"cannot be read: {error}") from error


def _error(record: VideoRecord, status: Status, reason: str) -> VideoDecodeError:
    return VideoDecodeError(record.sample_id, record.uri, reason, status)
