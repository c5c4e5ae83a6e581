"""The shards of a sealed store as bytes, in Zarr v3 or in Parquet. No storage.

The bytes of a shard are made in memory and published whole, and a reader decodes only bytes whose
sha256 was right. That matters for Zarr above all: it reads a missing object as fill values, and
writes a part of a shard by reading, changing and writing it, so that several writers lose rows
without an error.

Zarr: one object an array for each shard, and a group that any Zarr reads. Parquet: one file a
shard, one line a cell that is wanted, for DuckDB, pandas and Spark; every footer repeats what the
file was made from, so that a stray file still says what it is.

All names are below the root of the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import zarr
from zarr.abc.store import Store
from zarr.buffer.cpu import Buffer
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from pipeline.logits.cells import Grid, cell_schema, cell_shapes, pick, scatter, to_cells, to_table
from pipeline.logits.spec import StoreSpec
from pipeline.storage.sealed.identity import canonical_json
from pipeline.storage.sealed.tables import decode_table, encode_table

ZARR_FOLDER, PARQUET_FOLDER = "logits.zarr", "logits.parquet"
# array -> its number of axes, which its chunks' names show; only the first axis is cut into shards
NUM_AXES = {
    "status": 2,
    "logits": 3,
    "logit_offset": 2,
    "view_digest": 2,
    "frame_crc": 3,
    "label": 1,
    "sample_id": 1,
}


def shared_files(spec: StoreSpec) -> dict[str, bytes]:
    """Return the files that belong to no shard; Parquet has none."""
    objects: dict[str, Any] = {}
    if spec.format == "zarr":
        _create_group(MemoryStore(objects), spec)
    return _to_files(objects)


def shard_names(spec: StoreSpec, number: int) -> list[str]:
    """Return the names of a shard's files."""
    if spec.format == "parquet":
        return [f"{PARQUET_FOLDER}/shard-{number:05d}.parquet"]
    return [
        f"{ZARR_FOLDER}/{array}/c/{number}" + "/0" * (num_axes - 1)
        for array, num_axes in NUM_AXES.items()
    ]


def encode_shard(spec: StoreSpec, number: int, grid: Grid) -> dict[str, bytes]:
    """Encode exactly one whole shard; ValueError if the grid has another number of rows."""
    rows = spec.shard_rows(number)
    if len(grid) != len(rows):
        raise ValueError(f"shard {number} has {len(rows)} rows, not {len(grid)}")
    names = shard_names(spec, number)
    if spec.format == "parquet":
        cells = pick(grid, rows, spec)
        positions = cells.row - rows.start
        columns = vars(cells) | {
            "sample_id": np.array(grid.sample_id, dtype=object)[positions],
            "label": grid.label[positions],
        }
        return {names[0]: encode_table(to_table(columns, _schema(spec)))}
    objects: dict[str, Any] = {}
    group = _create_group(MemoryStore(objects), spec)
    for name in NUM_AXES:
        # Chunks of nothing but fill values would be left out, and every name is in the seal. (A
        # group forgets what its arrays were created with.)
        array = group[name].with_config({"write_empty_chunks": True})
        array[rows.start : rows.stop] = np.asarray(getattr(grid, name))
    files = _to_files(objects)
    return {name: files[name] for name in names}


def decode_shard(spec: StoreSpec, number: int, files: Mapping[str, bytes]) -> Grid:
    """Decode a shard from its files and the shared ones, all verified.

    StoreCorrupt if a Parquet file lacks the columns of this format.
    """
    rows = spec.shard_rows(number)
    if spec.format == "parquet":
        (name,) = shard_names(spec, number)
        table = decode_table(files[name], _schema(spec), uri=name)
        # Every row has a cell, so the first cell of each holds the columns that are of the row.
        _, first = np.unique(table.column("row").to_numpy(), return_index=True)
        of_rows = table.select(["label", "sample_id"]).take(first).to_pydict()
        return scatter(to_cells(table), rows, spec, **of_rows)
    objects: dict[str, Any] = {
        name.removeprefix(f"{ZARR_FOLDER}/"): Buffer.from_bytes(content)
        for name, content in files.items()
    }
    group: Any = zarr.open_group(MemoryStore(objects), mode="r", zarr_format=3)
    arrays = {array: group[array][rows.start : rows.stop] for array in NUM_AXES}
    return Grid(**arrays | {"sample_id": tuple(arrays["sample_id"].tolist())})


def _schema(spec: StoreSpec) -> pa.Schema:
    of_row = [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
    ]
    footer: dict[bytes | str, bytes | str] = {
        "fingerprint": spec.fingerprint,
        "identity": canonical_json(spec.identity),
        "class_names": json.dumps(spec.class_names),
    }
    return pa.schema([*cell_schema(spec), *of_row], metadata=footer)


def _create_group(store: Store, spec: StoreSpec) -> Any:
    group = zarr.create_group(
        store,
        attributes={
            "fingerprint": spec.fingerprint,
            "identity": dict(spec.identity),
            "class_names": list(spec.class_names),
            "view_indices": list(spec.view_indices),
        },
    )
    num_views, rows = len(spec.view_indices), spec.rows_per_shard
    arrays: dict[str, tuple[Any, tuple[int, ...]]] = {
        name: (dtype, (num_views, *cell)) for name, (dtype, cell) in cell_shapes(spec).items()
    }
    arrays |= {"label": (np.dtype(np.int32), ()), "sample_id": (str, ())}
    for name, (dtype, of_row) in arrays.items():
        # A chunk of logits is one view, so that a reader of few views reads few bytes.
        one_view = name == "logits"
        shard = (rows, *of_row)
        group.create_array(
            name,
            shape=(spec.num_rows, *of_row),
            dtype=dtype,
            chunks=(rows, 1, *of_row[1:]) if one_view else shard,
            shards=shard if one_view else None,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            dimension_names=("row", "view", "class" if one_view else "frame")[: 1 + len(of_row)],
        )
    return group


def _to_files(objects: Mapping[str, Any]) -> dict[str, bytes]:
    return {f"{ZARR_FOLDER}/{key}": objects[key].to_bytes() for key in sorted(objects)}
