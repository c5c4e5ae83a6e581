"""A file of frames: Arrow IPC, a record batch a video, a row a candidate, JPEGs end to end.

Arrow's own footer says where each batch is and a batch where each JPEG is, so a reader that maps
the file touches only the pages of the frames that it wants. Any Arrow reader opens it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.frames.candidates import PreparedVideo

SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("frame_index", pa.int32()), ("jpeg", pa.large_binary())]
)
MAX_OPEN_FILES = 256  # mapped at once by a process


@dataclass(frozen=True)
class Location:
    """Where the candidates of a video are: a file, and the number of the record batch in it."""

    file_uri: str
    batch: int

    @property
    def uri(self) -> str:
        """The same as the URI of a prepared record."""
        return f"{self.file_uri}#{self.batch}"

    @classmethod
    def parse(cls, uri: str) -> Location:
        """Read it back.

        Raises:
            ValueError: if the URI names no record batch.

        """
        file_uri, _, batch = uri.rpartition("#")
        return cls(file_uri, int(batch))


def encode_frames(videos: Iterable[PreparedVideo], fingerprint: str) -> bytes:
    """Encode the videos of a file in order; a bad one is an empty batch, so that none shifts."""
    buffer = pa.BufferOutputStream()
    schema = SCHEMA.with_metadata({"fingerprint": fingerprint})
    with pa.ipc.new_file(buffer, schema) as writer:
        for video in videos:
            sample_ids = [video.record.sample_id] * len(video.jpegs)
            columns = [sample_ids, video.frame_indices, video.jpegs]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return bytes(buffer.getvalue())


def mapped_jpegs(path: Path, batch: int) -> tuple[memoryview, list[memoryview]]:
    """Return the JPEGs of a video without copying: all of them end to end, and one by one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no sound file of frames, or has no such batch (``pa.ArrowInvalid``).

    """
    reader = _mapped(path)
    if not 0 <= batch < reader.num_record_batches:
        raise ValueError(f"has {reader.num_record_batches} videos, and none at {batch}")
    frames = reader.get_batch(batch)
    frames.validate(full=True)  # or a damaged offset reads beyond the file
    column = frames.column(SCHEMA.get_field_index("jpeg"))
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, np.int64, len(column) + 1).tolist()
    view = memoryview(content).cast("B")  # Arrow's own view is of signed bytes
    jpegs = [view[start:end] for start, end in pairwise(ends)]
    return view[ends[0] : ends[-1]], jpegs


@lru_cache(maxsize=MAX_OPEN_FILES)
def _mapped(path: Path) -> Any:
    """Map a file. It is kept, and never changes: files of a sealed store are not replaced."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if not reader.schema.equals(SCHEMA):
        raise ValueError(f"has other columns than frames: {reader.schema.names}")
    return reader
