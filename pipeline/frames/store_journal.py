"""Fragments of the journal: the prepared videos of one unit, as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from pipeline.dataset.manifest import SCHEMA as RECORD_SCHEMA
from pipeline.dataset.manifest import records_of, records_table
from pipeline.errors import StoreCorrupt
from pipeline.frames.candidates import PreparedVideo
from pipeline.frames.store_layout import FrameSpec
from pipeline.logits.identity import canonical_json
from pipeline.storage.files import join_uri, read_bytes, sha256_of
from pipeline.storage.sealed.files import FileEntry, publish
from pipeline.storage.sealed.journal import fragment_name
from pipeline.storage.sealed.tables import check_footer, decode_table, encode_table

SCHEMA = pa.schema(
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
    table = pa.table(columns, schema=SCHEMA.with_metadata(_footer(videos, unit, spec)))
    return publish(root, fragment_name(unit), encode_table(table))


def read_fragment(root: str, spec: FrameSpec, unit: int) -> list[PreparedVideo]:
    """Read and verify the videos of a unit.

    Raises:
        FileNotFoundError: if the unit is not in the journal.
        StoreCorrupt: if its fragment is damaged, or of another unit or fingerprint.

    """
    uri = join_uri(root, fragment_name(unit))
    table = decode_table(read_bytes(uri), SCHEMA, uri=uri)
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
