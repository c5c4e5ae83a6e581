"""Opening the frame store, and making it from video files.

Every function that makes a store may be called again after a kill, and by several jobs at once. A
unit is a few rows, and a file of frames a few units. The journal holds every JPEG a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import SCHEMA as RECORD_SCHEMA
from pipeline.dataset.manifest import (
    Manifest,
    VideoRecord,
    decode_manifest,
    encode_manifest,
    records_of,
    records_table,
)
from pipeline.errors import StoreCorrupt, StoreIncomplete
from pipeline.frames.prepared import PreparedVideo, batch_uri, encode_frames, file_name
from pipeline.storage.files import join_uri, list_files, read_bytes, sha256_of
from pipeline.storage.sealed import store as sealed
from pipeline.storage.sealed.garbage import Garbage, judge
from pipeline.storage.sealed.identity import IDENTITY_NAME, canonical_json, decode_identity
from pipeline.storage.sealed.tables import check_footer, decode_table, encode_table

JOB = "jobs/prepare_frames.py"
SCHEMA_VERSION = 1  # of the frame store; raise it when a file or the choice of frames changes
MANIFEST_NAME = "manifest.parquet"
FRAGMENT_SCHEMA = pa.schema(
    [
        *RECORD_SCHEMA,
        ("frame_indices", pa.list_(pa.int32())),
        ("jpegs", pa.list_(pa.large_binary())),
    ]
)


@dataclass(frozen=True)
class FrameSpec(sealed.Spec):
    """All that a task must know of a frame store: what it is made from, and how it is cut."""

    num_rows: int
    videos_per_unit: int
    units_per_file: int

    @property
    def num_units(self) -> int:
        return -(-self.num_rows // self.videos_per_unit)

    @property
    def num_files(self) -> int:
        return -(-self.num_units // self.units_per_file)

    def unit_rows(self, unit: int) -> range:
        """Return the rows of a unit; the last one may be shorter."""
        first = unit * self.videos_per_unit
        return range(first, min(first + self.videos_per_unit, self.num_rows))

    def file_units(self, number: int) -> range:
        """Return the units of a file; the last one may hold fewer."""
        first = number * self.units_per_file
        return range(first, min(first + self.units_per_file, self.num_units))


@dataclass(frozen=True)
class FrameStore(sealed.SealedStore[FrameSpec]):
    """A sealed frame store; the URIs of ``manifest`` are absolute."""

    manifest: Manifest


@dataclass(frozen=True)
class GatheredFile:
    """A file of frames, and the rows of the prepared manifest that point into it."""

    entry: sealed.FileEntry
    records: tuple[VideoRecord, ...]


def open_frame_store(root: str) -> FrameStore:
    """Open a sealed frame store; StoreIncomplete if there is none."""
    seal, spec = sealed.open_sealed(root, _decode_spec, kind="frame store", job=JOB)
    content = sealed.read_verified(root, sealed.sealed_entry(root, seal, MANIFEST_NAME))
    manifest = decode_manifest(content, uri=join_uri(root, MANIFEST_NAME), root=root)
    return FrameStore(root, seal, spec, manifest)


def plan_frame_store(config: ExperimentConfig, videos: Manifest) -> FrameSpec:
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


def write_fragment(
    root: str, spec: FrameSpec, unit: int, videos: Sequence[PreparedVideo]
) -> sealed.FileEntry:
    """Journal the videos of a unit; StoreCorrupt if a different fragment is there already."""
    if len(videos) != len(spec.unit_rows(unit)):
        raise ValueError(f"unit {unit} has {len(spec.unit_rows(unit))} videos, not {len(videos)}")
    columns = records_table([video.record for video in videos]).to_pydict() | {
        "frame_indices": [video.frame_indices for video in videos],
        "jpegs": [video.jpegs for video in videos],
    }
    table = pa.table(columns, schema=FRAGMENT_SCHEMA.with_metadata(_footer(videos, unit, spec)))
    return sealed.publish(root, sealed.fragment_name(unit), encode_table(table))


def read_fragment(root: str, spec: FrameSpec, unit: int) -> list[PreparedVideo]:
    """Read and verify the videos of a unit; FileNotFoundError if it is not in the journal."""
    uri = join_uri(root, sealed.fragment_name(unit))
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


def gather_file(root: str, spec: FrameSpec, number: int) -> GatheredFile:
    """Write one whole file from the fragments of its units; StoreIncomplete if some are missing."""
    videos: list[PreparedVideo] = []
    for unit in spec.file_units(number):
        try:
            videos += read_fragment(root, spec, unit)
        except FileNotFoundError as error:
            raise StoreIncomplete(f"{root} lacks unit {unit}; run {JOB}") from error
    entry = sealed.publish(root, file_name(number), encode_frames(videos, spec.fingerprint))
    records = [video.record for video in videos]
    for batch, record in enumerate(records):
        if record.good:  # a bad video has no place in the file
            records[batch] = replace(record, uri=batch_uri(entry.name, batch))
    return GatheredFile(entry, tuple(records))


def seal_frames(
    root: str,
    spec: FrameSpec,
    gathered: Sequence[GatheredFile],
    *,
    videos: Manifest,
    provenance: Mapping[str, Any],
) -> sealed.Seal:
    """Seal a store of all its files in order, made from the manifest ``videos``.

    StoreIncomplete if files are missing. ``provenance`` is recorded, and part of no digest.
    """
    records = tuple(record for file in gathered for record in file.records)
    if len(records) != spec.num_rows:
        raise StoreIncomplete(
            f"{root} cannot be sealed: {len(records)} of {spec.num_rows} videos are gathered"
        )
    # The root is empty: its URIs start at the store, wherever that is moved.
    prepared = Manifest(videos.dataset, videos.class_names, records)
    shared = {MANIFEST_NAME: encode_manifest(prepared, root="")}
    entries = [file.entry for file in gathered]
    return sealed.seal_files(root, spec, entries, shared=shared, provenance=provenance)


def find_garbage(root: str, *, written_before: float, journals: bool = False) -> list[Garbage]:
    """List what may be removed of a frame store; nothing, if there is none at ``root``.

    Files younger than ``written_before``, in seconds since 1970, are not touched. ``journals``
    includes the journal of a store that was sealed before that.
    """
    files = list_files(root)
    if all(file.name != IDENTITY_NAME for file in files):
        return []  # the folder is not ours
    folders = (f"{sealed.JOURNAL_NAME}/",)
    return judge(
        root, files, frozenset(), folders, written_before=written_before, journals=journals
    )


def _decode_spec(content: bytes, uri: str) -> FrameSpec:
    identity, layout = decode_identity(content, uri=uri, schema_version=SCHEMA_VERSION)
    try:
        return FrameSpec(identity=identity, **layout)
    except TypeError as error:
        raise StoreCorrupt(uri, expected="the layout of a store", found=repr(error)) from error


def _footer(videos: Sequence[PreparedVideo], unit: int, spec: FrameSpec) -> dict[bytes, bytes]:
    """Describe a fragment; the bytes of the JPEGs are covered by their records' sha256."""
    content = [[asdict(v.record), v.frame_indices, [len(j) for j in v.jpegs]] for v in videos]
    return sealed.fragment_footer(spec.fingerprint, unit, sha256_of(canonical_json(content)))
