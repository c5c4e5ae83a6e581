"""Cells as Arrow tables, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.logits.cells import Cells
from pipeline.logits.layout import StoreSpec


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
