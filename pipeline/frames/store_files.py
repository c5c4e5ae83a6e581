"""A file of frames: Arrow IPC, a record batch a video, a row a candidate, JPEGs end to end.

Arrow's own footer says where each batch is and a batch where each JPEG is, so a reader that maps
the file touches only the pages of the frames that it wants. Any Arrow reader opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import SCHEMA as RECORD_SCHEMA
from pipeline.dataset.manifest import Manifest, records_of, records_table
from pipeline.errors import StoreCorrupt
from pipeline.frames.candidates import PreparedVideo
from pipeline.storage.files import is_local, join_uri, read_bytes, sha256_of, write_bytes
from pipeline.storage.locks import MIRRORS, making
from pipeline.storage.sealed.identity import canonical_json, fingerprint
from pipeline.storage.sealed.journal import fragment_name
from pipeline.storage.sealed.seal import (
    FileEntry,
    Seal,
    publish,
    read_seal,
    read_verified,
    sealed_entry,
)
from pipeline.storage.sealed.tables import check_footer, decode_table, encode_table

FRAMES_SCHEMA = pa.schema(
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
    schema = FRAMES_SCHEMA.with_metadata({"fingerprint": fingerprint})
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
    column = frames.column(FRAMES_SCHEMA.get_field_index("jpeg"))
    _, offsets, content = column.buffers()
    ends = np.frombuffer(offsets, np.int64, len(column) + 1).tolist()
    view = memoryview(content).cast("B")  # Arrow's own view is of signed bytes
    jpegs = [view[start:end] for start, end in pairwise(ends)]
    return view[ends[0] : ends[-1]], jpegs


@lru_cache(maxsize=MAX_OPEN_FILES)
def _mapped(path: Path) -> Any:
    """Map a file. It is kept, and never changes: files of a sealed store are not replaced."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if not reader.schema.equals(FRAMES_SCHEMA):
        raise ValueError(f"has other columns than frames: {reader.schema.names}")
    return reader


# FOLDED frames/store_layout
# What a frame store is made from, and how it is cut: rows into units, units into files.


SCHEMA_VERSION = 1  # of the frame store; raise it when a file or the choice of frames changes
MANIFEST_NAME = "manifest.parquet"


@dataclass(frozen=True)
class FrameSpec:
    """All that a task must know of a frame store."""

    identity: Mapping[str, Any]
    num_rows: int
    videos_per_unit: int
    units_per_file: int

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the identity."""
        return fingerprint(self.identity)

    @property
    def layout(self) -> dict[str, Any]:
        """Everything but the identity, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "identity"}

    @property
    def num_units(self) -> int:
        """Units of the whole store."""
        return -(-self.num_rows // self.videos_per_unit)

    @property
    def num_files(self) -> int:
        """Files of frames of the whole store."""
        return -(-self.num_units // self.units_per_file)

    def unit_rows(self, unit: int) -> range:
        """Return the rows of a unit; the last one may be shorter."""
        first = unit * self.videos_per_unit
        return range(first, min(first + self.videos_per_unit, self.num_rows))

    def file_units(self, number: int) -> range:
        """Return the units of a file; the last one may hold fewer."""
        first = number * self.units_per_file
        return range(first, min(first + self.units_per_file, self.num_units))


def plan_frame_store(config: ExperimentConfig, videos: Manifest) -> FrameSpec:
    """Plan the frame store of an experiment."""
    return FrameSpec(
        identity=frames_identity(config, videos),
        num_rows=len(videos.records),
        videos_per_unit=config.frames.videos_per_unit,
        units_per_file=config.frames.units_per_file,
    )


def frames_identity(config: ExperimentConfig, videos: Manifest) -> dict[str, Any]:
    """Collect everything that decides a prepared frame, as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": {"manifest_digest": videos.digest},
        "frames": config.frames.content,
    }


def file_name(number: int) -> str:
    """Return the name of a file of frames, below the root of the store."""
    return f"frames-{number:05d}.arrow"


# FOLDED frames/store_journal
# Fragments of the journal: the prepared videos of one unit, as Parquet.


FRAGMENT_SCHEMA = pa.schema(
    [
        *RECORD_SCHEMA,
        ("frame_indices", pa.list_(pa.int32())),
        ("jpegs", pa.list_(pa.large_binary())),
    ]
)


def write_fragment(
    root: str, spec: FrameSpec, unit: int, videos: Sequence[PreparedVideo]
) -> FileEntry:
    """Journal the videos of a unit; harmless if the same fragment is there already.

    Raises:
        StoreCorrupt: if a different fragment is there.
        ValueError: if the unit has another number of videos.

    """
    if len(videos) != len(spec.unit_rows(unit)):
        raise ValueError(f"unit {unit} has {len(spec.unit_rows(unit))} videos, not {len(videos)}")
    columns = records_table([video.record for video in videos]).to_pydict() | {
        "frame_indices": [video.frame_indices for video in videos],
        "jpegs": [video.jpegs for video in videos],
    }
    table = pa.table(columns, schema=FRAGMENT_SCHEMA.with_metadata(_footer(videos, unit, spec)))
    return publish(root, fragment_name(unit), encode_table(table))


def read_fragment(root: str, spec: FrameSpec, unit: int) -> list[PreparedVideo]:
    """Read and verify the videos of a unit.

    Raises:
        FileNotFoundError: if the unit is not in the journal.
        StoreCorrupt: if its fragment is damaged, or of another unit or fingerprint.

    """
    uri = join_uri(root, fragment_name(unit))
    table = decode_table(read_bytes(uri), FRAGMENT_SCHEMA, uri=uri)
    extra = (table.column(name).to_pylist() for name in ("frame_indices", "jpegs"))
    videos = [
        PreparedVideo(record, tuple(indices), tuple(jpegs))
        for record, indices, jpegs in zip(records_of(table), *extra, strict=True)
    ]
    check_footer(table, _footer(videos, unit, spec), uri=uri)
    for video in filter(lambda video: video.record.good, videos):
        found = sha256_of(b"".join(video.jpegs))
        if found != video.record.sha256:
            name = video.record.sample_id
            raise StoreCorrupt(uri, f"{name}: sha256 {video.record.sha256}", f"sha256 {found}")
    return videos


def _footer(videos: Sequence[PreparedVideo], unit: int, spec: FrameSpec) -> dict[bytes, bytes]:
    """Describe a fragment; the bytes of the JPEGs are covered by their records' sha256."""
    content = [[asdict(v.record), v.frame_indices, [len(j) for j in v.jpegs]] for v in videos]
    return {
        b"fingerprint": spec.fingerprint.encode(),
        b"unit": str(unit).encode(),
        b"content_sha256": sha256_of(canonical_json(content)).encode(),
    }


# FOLDED frames/store_mirror
# Files of frames on this machine: local ones where they are, others as whole verified copies.
#
# A file is copied when its first frame is wanted, by one process under a lock, and compared
# with the
# seal before it gets its name, which is its digest. A copy is not hashed again at every start, as
# the mirror of the logit store is (hashing K400's frames takes minutes): what is audited is hashed,
# video by video.


def local_file(file_uri: str) -> Path:
    """Return where a file of a frame store is on this machine.

    Raises:
        FileNotFoundError: if its store is not sealed.
        StoreCorrupt: if the file or its seal is damaged.
        StorageUnavailable: if another process holds the lock for too long.

    """
    return Path(file_uri) if is_local(file_uri) else _mirrored(file_uri)


@cache
def _mirrored(file_uri: str) -> Path:
    root, _, name = file_uri.rpartition("/")
    entry = sealed_entry(root, _seal_of(root), name)
    path = MIRRORS / "frames" / f"{entry.sha256}.arrow"
    with making(path):
        if not path.exists() or path.stat().st_size != entry.num_bytes:
            write_bytes(str(path), read_verified(root, entry))
    return path


@lru_cache(maxsize=1)
def _seal_of(root: str) -> Seal:
    return read_seal(root)
