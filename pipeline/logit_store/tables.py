"""Cells as Parquet, with checks that Parquet leaves off by default.

Page checksums must be asked for by the writer *and* by the reader, or a flipped bit in a logit
goes unseen nineteen times in twenty. The schema is compared before any value is used and has
plain Arrow types only: extension types have run code in readers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import StoreCorrupt
from pipeline.logit_store.cells import Cells
from pipeline.logit_store.layout import StoreSpec

WRITE_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["sample_id", "label"],  # repeated for every view of a video
    "write_page_checksum": True,
}


def cell_schema(spec: StoreSpec) -> pa.Schema:
    """Return the columns of ``Cells``; fixed-size lists, so that the shape is in the schema."""
    return pa.schema(
        [
            _required("row", pa.int32()),
            _required("view_index", pa.int16()),
            _required("status", pa.uint8()),
            _required("logits", _fixed_list(pa.float16(), spec.num_classes)),
            _required("logit_offset", pa.float32()),
            _required("view_digest", pa.uint64()),
            _required("frame_crc", _fixed_list(pa.uint32(), spec.num_frames)),
        ]
    )


def to_table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Build a table of the schema from arrays of one or two axes."""
    arrays = [_to_arrow(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def to_cells(table: pa.Table) -> Cells:
    """Take the cells out of a table that has their columns."""
    names = Cells.__dataclass_fields__
    return Cells(**{name: _to_numpy(table.column(name)) for name in names})


def encode_table(table: pa.Table) -> bytes:
    """Encode a table; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **WRITE_OPTIONS)
    return buffer.getvalue()


def decode_table(content: bytes, schema: pa.Schema, *, uri: str) -> pa.Table:
    """Decode a table and its footer.

    Raises:
        StoreCorrupt: if it is no Parquet, fails a page checksum or has other columns than
            ``schema``.

    """
    try:
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        if not file.schema_arrow.equals(schema):
            raise StoreCorrupt(uri, expected=f"columns\n{schema}", found=f"\n{file.schema_arrow}")
        return file.read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StoreCorrupt(uri, expected="a whole Parquet file", found=str(error)) from error


def _required(name: str, type_: pa.DataType) -> pa.Field[Any]:
    return pa.field(name, type_, nullable=False)


def _fixed_list(type_: pa.DataType, size: int) -> pa.DataType:
    return pa.list_(_required("element", type_), size)


def _to_arrow(values: Any, type_: Any) -> Any:
    if not pa.types.is_fixed_size_list(type_):
        return pa.array(values, type_)
    lists: Any = pa.FixedSizeListArray
    return lists.from_arrays(pa.array(values.ravel(), type_.value_type), type=type_)


def _to_numpy(column: Any) -> NDArray[Any]:
    array = column.combine_chunks()
    if not pa.types.is_fixed_size_list(array.type):
        return np.asarray(array)
    return np.asarray(array.flatten()).reshape(len(array), array.type.list_size)
