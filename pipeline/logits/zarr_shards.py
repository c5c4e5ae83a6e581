"""The sealed store as Zarr v3: one object an array for each shard, and a group that any Zarr reads.

One call encodes one whole shard. Zarr itself would also take a part of one, by reading, changing
and writing the shard, and several such writers lose rows without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.buffer.cpu import Buffer
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from pipeline.logits.cells import Grid, cell_shapes
from pipeline.logits.spec import StoreSpec

FOLDER = "logits.zarr"
# The number of axes gives the names of chunks: shards follow each other on the first one only.
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
    objects: dict[str, Any] = {}
    _create_group(MemoryStore(objects), spec)
    return _to_files(objects)


def shard_names(number: int) -> list[str]:
    return [
        f"{FOLDER}/{array}/c/{number}" + "/0" * (num_axes - 1)
        for array, num_axes in NUM_AXES.items()
    ]


def encode_shard(spec: StoreSpec, number: int, grid: Grid) -> dict[str, bytes]:
    """Encode exactly one whole shard.

    Raises:
        ValueError: if the grid has another number of rows than the shard.
    """
    rows = spec.shard_rows(number)
    if len(grid) != len(rows):
        raise ValueError(f"shard {number} has {len(rows)} rows, not {len(grid)}")
    objects: dict[str, Any] = {}
    group = _create_group(MemoryStore(objects), spec)
    for name in NUM_AXES:
        # Chunks of nothing but fill values would be left out, and every name is in the seal. (A
        # group forgets what its arrays were created with.)
        array = group[name].with_config({"write_empty_chunks": True})
        array[rows.start : rows.stop] = np.asarray(getattr(grid, name))
    files = _to_files(objects)
    return {name: files[name] for name in shard_names(number)}


def decode_shard(spec: StoreSpec, number: int, files: Mapping[str, bytes]) -> Grid:
    objects: dict[str, Any] = {
        name.removeprefix(f"{FOLDER}/"): Buffer.from_bytes(content)
        for name, content in files.items()
    }
    group: Any = zarr.open_group(MemoryStore(objects), mode="r", zarr_format=3)
    rows = spec.shard_rows(number)
    arrays = {array: group[array][rows.start : rows.stop] for array in NUM_AXES}
    return Grid(**arrays | {"sample_id": tuple(arrays["sample_id"].tolist())})


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
    return {f"{FOLDER}/{key}": objects[key].to_bytes() for key in sorted(objects)}
