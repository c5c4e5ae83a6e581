"""The sealed store as Parquet: one file a shard, one line a cell, for DuckDB, pandas and Spark.

Cells where no view is wanted are not there at all. Every footer repeats what the file was made
from, so that a stray file still says what it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from pipeline.logits.cells import Grid, cell_schema, pick, scatter, to_cells, to_table
from pipeline.logits.spec import StoreSpec
from pipeline.storage.sealed.identity import canonical_json
from pipeline.storage.sealed.tables import decode_table, encode_table

FOLDER = "logits.parquet"


def shared_files(spec: StoreSpec) -> dict[str, bytes]:
    """Return none: every file belongs to a shard."""
    return {}


def shard_names(number: int) -> list[str]:
    return [f"{FOLDER}/shard-{number:05d}.parquet"]


def encode_shard(spec: StoreSpec, number: int, grid: Grid) -> dict[str, bytes]:
    """Encode exactly one whole shard.

    Raises:
        ValueError: if the grid has another number of rows than the shard.
    """
    rows = spec.shard_rows(number)
    if len(grid) != len(rows):
        raise ValueError(f"shard {number} has {len(rows)} rows, not {len(grid)}")
    cells = pick(grid, rows, spec)
    positions = cells.row - rows.start
    columns = vars(cells) | {
        "sample_id": np.array(grid.sample_id, dtype=object)[positions],
        "label": grid.label[positions],
    }
    (name,) = shard_names(number)
    return {name: encode_table(to_table(columns, _schema(spec)))}


def decode_shard(spec: StoreSpec, number: int, files: Mapping[str, bytes]) -> Grid:
    """Decode a shard.

    Raises:
        StoreCorrupt: if its file lacks the columns of this format.
    """
    (name,) = shard_names(number)
    table = decode_table(files[name], _schema(spec), uri=name)
    # Every row has a cell, so the first cell of each row holds the columns that are of the row.
    _, first = np.unique(table.column("row").to_numpy(), return_index=True)
    of_rows = table.select(["label", "sample_id"]).take(first).to_pydict()
    return scatter(to_cells(table), spec.shard_rows(number), spec, **of_rows)


def _schema(spec: StoreSpec) -> pa.Schema:
    cells = cell_schema(spec)
    of_row = [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
    ]
    footer: dict[bytes | str, bytes | str] = {
        "fingerprint": spec.fingerprint,
        "identity": canonical_json(spec.identity),
        "class_names": json.dumps(spec.class_names),
    }
    return pa.schema([*cells, *of_row], metadata=footer)
