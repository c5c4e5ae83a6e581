"""The manifest: the Parquet table of input videos that every later stage starts from.

One row a video, by split and then by a hash of its ``sample_id``, so that neighbouring rows are of
any class; the position of a video is its ``row`` in the logit store. Bad videos keep their row,
with a status and a reason. The footer holds the class names in order, the root that URIs are
relative to, and the digest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import DatasetConfig
from pipeline.errors import DatasetError, Status, StoreIncomplete, TooManyFailedVideos
from pipeline.storage.files import exists, join_uri, read_bytes, write_bytes

RECORDS_PER_PART = 10_000  # of the JSON that is digested
REPEATED = {"split", "group", "codec", "reason", "notes"}  # columns whose texts many videos share
UNLABELLED = -1  # the label of a video without one, in arrays
# The codec of a record whose frames were prepared: its URI names a row of a frame store's file.
PREPARED = "prepared"
# The fields that a logit can depend on. URIs, codec names and rates are left out, so that moving a
# bucket or indexing again with another prober keeps the digest.
DIGESTED = ("sample_id", "label", "split", "num_frames", "width", "height", "sha256", "status")


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One row of the manifest.

    ``label`` is None for a video of train without one. ``num_frames``, ``width``, ``height`` are of
    the decoded, upright picture; 0 where unknown.
    ``skippable``: the decoder may leave out unused pictures (``pipeline.frames.skipping``).
    ``notes`` are findings that are no faults, with a comma between: ``size_changes``,
    ``damaged_pictures``, ``length_not_declared``.
    """

    sample_id: str
    uri: str
    label: int | None
    split: str
    group: str = ""
    num_frames: int = 0
    width: int = 0
    height: int = 0
    frame_rate: float = 0.0
    rotation: int = 0
    codec: str = ""
    num_bytes: int = 0
    sha256: str = ""
    skippable: bool = False
    status: int = Status.GOOD
    reason: str = ""
    notes: str = ""

    @property
    def good(self) -> bool:
        return self.status == Status.GOOD

    @property
    def label_number(self) -> int:
        return UNLABELLED if self.label is None else self.label

    @property
    def prepared(self) -> bool:
        return self.codec == PREPARED


_ARROW_TYPES = {
    "str": pa.string(),
    "int": pa.int32(),
    "int | None": pa.int32(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "num_bytes": pa.int64(),
    "status": pa.uint8(),
}
SCHEMA = pa.schema(
    [(f.name, _ARROW_TYPES.get(f.name, _ARROW_TYPES.get(str(f.type)))) for f in fields(VideoRecord)]
)
SCHEMA_WITHOUT_NOTES = pa.schema([field for field in SCHEMA if field.name != "notes"])  # older


@dataclass(frozen=True)
class Manifest:
    """All videos of a data set, and its classes in label order."""

    dataset: str
    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]

    @property
    def digested(self) -> bytes:
        """Everything in the manifest that a logit can depend on, as JSON."""
        return b"".join(self._digested_parts())

    @cached_property
    def digest(self) -> str:
        content = hashlib.sha256()
        for part in self._digested_parts():
            content.update(part)
        return content.hexdigest()

    def _digested_parts(self) -> Iterator[bytes]:
        def in_json(value: object) -> str:
            return json.dumps(value, separators=(",", ":"))

        yield f'{{"class_names":{in_json(self.class_names)},"records":['.encode()
        for start in range(0, len(self.records), RECORDS_PER_PART):
            part = [_digested(record) for record in self.records[start : start + RECORDS_PER_PART]]
            yield ("," * bool(start) + in_json(part)[1:-1]).encode()
        yield b"]}"

    def rows_of(self, split: str, *, good: bool = True) -> list[int]:
        """Return the rows of a split, by default only those of good videos."""
        rows = enumerate(self.records)
        return [row for row, r in rows if r.split == split and (r.good or not good)]


def without_label(records: Iterable[VideoRecord]) -> str:
    """Return in words how many good videos have no label; empty if all have one."""
    count = sum(record.good and record.label is None for record in records)
    return f", {count} of them without a label" if count else ""


def _digested(record: VideoRecord) -> list[object]:
    # No logit depends on the size that the header of a video without frames claims.
    if not record.num_frames:
        record = replace(record, width=0, height=0)
    return [getattr(record, name) for name in DIGESTED]


def build_manifest(
    dataset: str, class_names: Sequence[str], records: Sequence[VideoRecord]
) -> Manifest:
    """Put records in the order of rows; DatasetError if two have the same sample_id."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        files[record.sample_id].append(f"{record.split} {record.uri}".rstrip())
    repeated = sorted(sample_id for sample_id, where in files.items() if len(where) > 1)
    if repeated:
        first = ", ".join(f"{name} ({', '.join(files[name])})" for name in repeated[:10])
        raise DatasetError(
            f"videos listed more than once: {first} ({len(repeated)} in all). A video is known by"
            " its path without suffix, so keep one line, and one file, of each."
        )
    return Manifest(dataset, tuple(class_names), tuple(sorted(records, key=_place)))


def by_name(records: Iterable[VideoRecord]) -> tuple[VideoRecord, ...]:
    """Sort records for people to read; rows stand in another order."""
    return tuple(sorted(records, key=lambda record: (record.split, record.sample_id)))


def check_order(manifest: Manifest, uri: str) -> None:
    """Refuse a manifest of an older version, whose neighbours are of one class."""
    if tuple(sorted(manifest.records, key=_place)) != manifest.records:
        raise DatasetError(
            f"{uri} has its videos in alphabetical order, and views.mix would mix videos of one"
            " class with each other. Index the videos again, with jobs/index_videos.py, and prepare"
            " their frames again if they are prepared."
        )


def _place(record: VideoRecord) -> tuple[str, bytes]:
    # Names begin with their class: by name, neighbours would be of one class, and so would the
    # clips that are mixed with each other (pipeline.views.mix).
    return record.split, hashlib.sha256(record.sample_id.encode()).digest()


def decode_digested(content: bytes) -> Manifest:
    """Decode ``Manifest.digested`` without checking it; the manifest has no URIs."""
    values = json.loads(content)
    rows = (dict(zip(DIGESTED, row, strict=True)) for row in values["records"])
    records = tuple(VideoRecord(uri="", **row) for row in rows)
    return Manifest("", tuple(values["class_names"]), records)


def records_table(records: Sequence[VideoRecord]) -> pa.Table:
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def records_of(table: pa.Table, root: str | None = None) -> list[VideoRecord]:
    """Read the records of a table; columns that are not of ``SCHEMA`` are left alone.

    With ``root`` the URIs, which are relative to it, become absolute.
    """
    names = [name for name in SCHEMA.names if name in table.schema.names]
    assert names == SCHEMA.names[: len(names)], "only the newest columns may be missing"
    columns = [table.column(name).to_pylist() for name in names]
    for place, name in enumerate(names):
        if name in REPEATED:  # one text in memory for all records that have it
            known: dict[str, str] = {}
            columns[place] = [known.setdefault(text, text) for text in columns[place]]
        if name == "uri" and root is not None:
            columns[place] = [join_uri(root, uri) for uri in columns[place]]
    return [VideoRecord(*values) for values in zip(*columns, strict=True)]


def located(records: Sequence[VideoRecord], root: str) -> tuple[VideoRecord, ...]:
    return tuple(replace(record, uri=join_uri(root, record.uri)) for record in records)


def write_manifest(manifest: Manifest, uri: str, *, root: str) -> None:
    write_bytes(uri, encode_manifest(manifest, root=root))


def encode_manifest(manifest: Manifest, *, root: str) -> bytes:
    """Encode a manifest whose record URIs are relative to ``root``."""
    table = records_table(manifest.records)
    class_names = json.dumps(manifest.class_names)
    facts = {"dataset": manifest.dataset, "class_names": class_names, "root": root}
    table = table.replace_schema_metadata(facts | {"columns_sha256": _columns_sha256(table, facts)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_manifest(uri: str, *, root: str | None = None) -> Manifest:
    """Read and check a manifest; record URIs come back absolute.

    ``root`` is where the videos are now; by default, where they were when it was written.

    StoreIncomplete if there is no manifest; DatasetError if it is damaged or not a manifest.
    """
    if not exists(uri):
        raise StoreIncomplete(f"there is no manifest at {uri}; run jobs/index_videos.py first")
    return decode_manifest(read_bytes(uri), uri=uri, root=root)


def decode_manifest(content: bytes, *, uri: str, root: str | None) -> Manifest:
    """Decode and check a manifest, as ``read_manifest`` does."""
    try:
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        if file.schema_arrow not in (SCHEMA, SCHEMA_WITHOUT_NOTES):  # before a value is read
            raise ValueError("it has other columns")
        table = file.read()
        footer = {key.decode(): text.decode() for key, text in table.schema.metadata.items()}
        facts = {name: footer[name] for name in ("dataset", "class_names", "root")}
        # Page checksums do not cover the footer, which holds the class names.
        by_columns = "columns_sha256" in footer
        found = (_columns_sha256 if by_columns else _older_sha256)(table, facts)
        expected = footer["columns_sha256" if by_columns else "content_sha256"]
        if found != expected:
            raise ValueError(
                f"it was changed after it was written (expected content {expected}, found {found})"
            )
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        raise DatasetError(
            f"{uri} is not a sound manifest: {error}. Index the videos again."
        ) from error
    suspects = table.filter(pc.match_substring(table.column("uri"), ".."))
    for record in records_of(suspects):
        if ".." in record.uri.split("/"):
            first = f"{record.sample_id} is at {record.uri}"
            raise DatasetError(f"{uri} names videos that are not below its root: {first}")
    records = tuple(records_of(table, root or facts["root"]))
    return Manifest(facts["dataset"], tuple(json.loads(facts["class_names"])), records)


def _columns_sha256(table: pa.Table, facts: Mapping[str, str]) -> str:
    """Return a digest of the values of all columns, and of the facts."""
    content = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in table.schema.names:
        array = pa.concat_arrays(table.column(name).chunks) if len(table) else pa.array([], "int8")
        content.update(f"{name} {table.schema.field(name).type} {len(array)}".encode())
        content.update(np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(array.type):
            content.update(pc.binary_length(array).to_numpy().tobytes())
            offsets = np.frombuffer(array.buffers()[1], np.int32)[: len(array) + 1]
            content.update(array.buffers()[2][offsets[0] : offsets[-1]])
        else:
            filled = array.fill_null(UNLABELLED) if array.null_count else array
            content.update(filled.to_numpy(zero_copy_only=False).tobytes())
    return content.hexdigest()


def _older_sha256(table: pa.Table, facts: Mapping[str, str]) -> str:
    content = json.dumps([table.to_pylist(), facts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check_failed_fraction(
    num_bad: int, records: Sequence[VideoRecord], dataset: DatasetConfig
) -> None:
    """Stop when too many of ``records`` are bad; ``num_bad`` counts missing ones, too.

    DatasetError if no video is good; TooManyFailedVideos if the share of bad or of missing ones is
    over its limit.
    """
    if num_bad == len(records):
        raise DatasetError(f"none of the {num_bad} videos under {dataset.root} can be used")
    num_missing = 0
    if dataset.max_missing_fraction is not None:
        num_missing = sum(record.status == Status.NOT_FOUND for record in records)
    for word, count, setting, limit in (
        ("are not there", num_missing, "max_missing_fraction", dataset.max_missing_fraction or 0),
        ("are bad", num_bad - num_missing, "max_failed_fraction", dataset.max_failed_fraction),
    ):
        if count > limit * len(records):
            raise TooManyFailedVideos(
                f"{count} of {len(records)} videos {word}, over dataset.{setting} {limit:g}.\n"
                f"  They are listed above, and those of the index in bad_videos.csv beside the"
                " manifest; mend them, or raise the limit."
            )


def num_classes_of(config: ExperimentConfig) -> int:
    """Return the number of classes as it is set, or else as the manifest has it."""
    if config.dataset.num_classes is not None:
        return config.dataset.num_classes
    return len(read_manifest(config.manifest_uri).class_names)
