"""Prepared frames: the candidates of a video, and the files that hold them.

Candidates are chosen, shrunk once and encoded inside a decoding process, so that JPEGs travel
between processes and pictures do not.

A file is Arrow IPC: a record batch a video, a row a candidate, JPEGs end to end. Arrow's own footer
says where each batch is and a batch where each JPEG is, so a reader that maps the file touches only
the pages of the frames that it wants. Before its first frame is used, a whole file is compared with
the seal of its store, once a machine and job. Local files are read where they are, others from a
copy, which is made when its first frame is wanted and named by its digest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.schema import FramesConfig, VideoLimits
from pipeline.dataset.manifest import PREPARED, VideoRecord
from pipeline.errors import StoreCorrupt
from pipeline.frames.pictures import encode_jpeg, resized
from pipeline.frames.video import frames_of
from pipeline.storage.files import is_local, sha256_of, write_bytes
from pipeline.storage.locks import MIRRORS, job_id, making, verify_once
from pipeline.storage.sealed.store import (
    FileEntry,
    Seal,
    check_file,
    read_seal,
    read_verified,
    sealed_entry,
)

FRAMES_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("frame_index", pa.int32()), ("jpeg", pa.large_binary())]
)
MAX_OPEN_FILES = 256  # mapped at once by a process

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedVideo:
    """The candidates of a video; a bad one has none.

    ``record`` is its row in the prepared manifest, still without a URI. ``frame_indices`` are the
    positions of the JPEGs in the video file.
    """

    record: VideoRecord
    frame_indices: tuple[int, ...] = ()
    jpegs: tuple[bytes, ...] = ()


def prepare_video(
    record: VideoRecord, limits: VideoLimits, *, frames: FramesConfig
) -> PreparedVideo:
    """Prepare a video in one decode pass."""
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
    longer = (2 * max(height, width) * short_side + short) // (2 * short)  # rounded half up
    return (longer, short_side) if height > width else (short_side, longer)


# --- files ----------------------------------------------------------------------------------------


def batch_uri(file_uri: str, batch: int) -> str:
    """Name the candidates of a video: their file, and the number of the record batch in it."""
    return f"{file_uri}#{batch}"


def split_batch_uri(uri: str) -> tuple[str, int]:
    """Return the file and the batch that ``batch_uri`` named; ValueError if it names no batch."""
    file_uri, _, batch = uri.rpartition("#")
    return file_uri, int(batch)


def file_name(number: int) -> str:
    return f"frames-{number:05d}.arrow"


def encode_frames(videos: Iterable[PreparedVideo], fingerprint: str) -> bytes:
    """Encode the videos of a file in order; a bad one is an empty batch, so that none shifts."""
    buffer = pa.BufferOutputStream()
    schema = FRAMES_SCHEMA.with_metadata({"fingerprint": fingerprint})
    with pa.ipc.new_file(buffer, schema) as writer:
        for video in videos:
            sample_ids = [video.record.sample_id] * len(video.jpegs)
            columns = [sample_ids, video.frame_indices, video.jpegs]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return bytes(buffer.getvalue())


def mapped_jpegs(path: Path, batch: int) -> tuple[memoryview, list[memoryview]]:
    """Return the JPEGs of a video without copying: all of them end to end, and one by one.

    FileNotFoundError if there is no such file; ValueError if it is no sound file of frames, or has
    no such batch (``pa.ArrowInvalid``).
    """
    reader = _mapped(path)
    if not 0 <= batch < reader.num_record_batches:
        raise ValueError(f"has {reader.num_record_batches} videos, and none at {batch}")
    frames = reader.get_batch(batch)
    frames.validate(full=True)  # or a damaged offset reads beyond the file
    column = frames.column(FRAMES_SCHEMA.get_field_index("jpeg"))
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, np.int64, len(column) + 1).tolist()
    view = memoryview(content).cast("B")  # Arrow's own view is of signed bytes
    jpegs = [view[start:end] for start, end in pairwise(ends)]
    return view[ends[0] : ends[-1]], jpegs


def local_file(file_uri: str) -> Path:
    """Return where a file of a frame store is on this machine, once it is known to be whole.

    FileNotFoundError if it is missing, or its store is not sealed; StoreCorrupt if the file or its
    seal is damaged.
    """
    return _verified(file_uri, job_id())


@cache
def _verified(file_uri: str, job: str) -> Path:
    root, _, name = file_uri.rpartition("/")
    entry = sealed_entry(root, _seal_of(root, job), name)
    copy = MIRRORS / "frames" / f"{entry.sha256}.arrow"
    with making(copy):
        if is_local(file_uri):
            path = Path(file_uri)
            verify_once(copy, path, lambda: check_file(path, entry))
            return path
        verify_once(copy, copy, lambda: _make_sound(copy, root, entry))
        return copy


@lru_cache(maxsize=1)
def _seal_of(root: str, job: str) -> Seal:
    return read_seal(root)


def _make_sound(copy: Path, root: str, entry: FileEntry) -> None:
    """Copy a file of the store, unless the copy that is there is right."""
    try:
        check_file(copy, entry)
    except (FileNotFoundError, StoreCorrupt) as error:
        if isinstance(error, StoreCorrupt):
            log.warning("%s is damaged; copying %s/%s again", copy, root, entry.name)
        write_bytes(str(copy), read_verified(root, entry))


@lru_cache(maxsize=MAX_OPEN_FILES)
def _mapped(path: Path) -> Any:
    """Map a file. It stays mapped, and never changes: files of a sealed store are not replaced."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if not reader.schema.equals(FRAMES_SCHEMA):
        raise ValueError(f"has other columns than frames: {reader.schema.names}")
    return reader
