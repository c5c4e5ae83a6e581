"""The content of the store in numpy: a list of cells, as computed, or a dense grid, as read.

A cell is what is known of one view of one video. A cell without logits has a status that says why
and zeros everywhere else: zeros are the same bytes on every machine, which NaN is not, and no
reader takes them for logits, because the status decides and a constant is never stored as good.

Logits are stored as float16 with the largest at 0, and an offset that adds back. Softmax does not
depend on the offset. Near 0, where the classes that matter lie, float16 is finest: the error of a
logit is at most 2**-11 of its distance from the top one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.logits.spec import StoreSpec, Unit, cut_unit
from pipeline.views.view import EVALUATION_VIEW

LOWEST = np.finfo(np.float16).min  # of a centred logit; its softmax is 0 at any sane temperature


@dataclass(frozen=True, eq=False)
class Cells:
    """A list of n cells, one entry a (row, view_index)."""

    row: NDArray[np.int32]  # (n,)
    view_index: NDArray[np.int16]  # (n,)
    status: NDArray[np.uint8]  # (n,), a pipeline.errors.Status
    logits: NDArray[np.float16]  # (n, K), centred
    logit_offset: NDArray[np.float32]  # (n,)
    view_digest: NDArray[np.uint64]  # (n,)
    frame_crc: NDArray[np.uint32]  # (n, T)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def coordinates(self) -> list[tuple[int, int]]:
        return list(zip(self.row.tolist(), self.view_index.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Grid:
    """All cells of B consecutive rows, by row and by position in ``StoreSpec.view_indices``."""

    status: NDArray[np.uint8]  # (B, V)
    logits: NDArray[np.float16]  # (B, V, K)
    logit_offset: NDArray[np.float32]  # (B, V)
    view_digest: NDArray[np.uint64]  # (B, V)
    frame_crc: NDArray[np.uint32]  # (B, V, T)
    label: NDArray[np.int32]  # (B,)
    sample_id: tuple[str, ...]  # B of them

    def __len__(self) -> int:
        return len(self.label)


def cell_shapes(spec: StoreSpec) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return dtype and shape, of one cell, of everything that Cells and Grid share."""
    return {
        "status": (np.dtype(np.uint8), ()),
        "logits": (np.dtype(np.float16), (spec.num_classes,)),
        "logit_offset": (np.dtype(np.float32), ()),
        "view_digest": (np.dtype(np.uint64), ()),
        "frame_crc": (np.dtype(np.uint32), (spec.num_frames,)),
    }


def joined(parts: Sequence[Cells], spec: StoreSpec) -> Cells:
    """Put lists of cells together, in the order of the journal: by row, then by view."""
    arrays = {
        name: np.concatenate([np.zeros((0, *shape), dtype), *(vars(part)[name] for part in parts)])
        for name, (dtype, shape) in _columns(spec).items()
    }
    order = np.lexsort((arrays["view_index"], arrays["row"]))
    return Cells(**{name: values[order] for name, values in arrays.items()})


def chosen(cells: Cells, where: NDArray[np.bool_]) -> Cells:
    """Keep the cells for which ``where`` (n,) is true."""
    return Cells(**{name: values[where] for name, values in vars(cells).items()})


def unit_of(spec: StoreSpec, number: int, cells: Cells) -> Unit:
    """Cut the unit that cells make up: a row with the evaluation view has no other view."""
    evaluated = set(cells.row[cells.view_index == EVALUATION_VIEW].tolist())
    splits = ["val" if row in evaluated else "train" for row in spec.unit_rows(number)]
    return cut_unit(spec, number, splits)


def scatter(
    cells: Cells, rows: range, spec: StoreSpec, *, label: Sequence[int], sample_id: Sequence[str]
) -> Grid:
    """Lay cells out as the grid of ``rows``; what no cell fills is missing."""
    slots = spec.slots(cells.view_index)
    arrays = {}
    for name, (dtype, shape) in cell_shapes(spec).items():
        arrays[name] = np.zeros((len(rows), len(spec.view_indices), *shape), dtype)
        arrays[name][cells.row - rows.start, slots] = getattr(cells, name)
    return Grid(**arrays, label=np.array(label, np.int32), sample_id=tuple(sample_id))


def pick(grid: Grid, rows: range, spec: StoreSpec) -> Cells:
    """List the cells of the grid of ``rows`` that are not missing, by row, then by view."""
    positions, slots = np.nonzero(grid.status)
    return Cells(
        row=(positions + rows.start).astype(np.int32),
        view_index=np.array(spec.view_indices, np.int16)[slots],
        **{name: getattr(grid, name)[positions, slots] for name in cell_shapes(spec)},
    )


def centre(logits: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Split finite logits, (n, K), into centred logits and their offset, (n,).

    The maximum of every centred row is exactly 0.
    """
    offset = logits.max(axis=1)
    with np.errstate(over="ignore"):  # a distance beyond float32 is one beyond float16
        centred = np.maximum(logits - offset[:, None], LOWEST)
    return centred.astype(np.float16), offset


def bad_logits(logits: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which rows of (n, K) hold NaN, infinity or one constant, none of which teaches."""
    bad: NDArray[np.bool_] = ~np.isfinite(logits).all(axis=1)
    bad |= logits.max(axis=1) == logits.min(axis=1)
    return bad


def cell_schema(spec: StoreSpec) -> pa.Schema:
    """Return the columns of ``Cells``; fixed-size lists, so that the shape is in the schema."""
    return pa.schema(
        [
            pa.field(name, _arrow_type(dtype, *shape), nullable=False)
            for name, (dtype, shape) in _columns(spec).items()
        ]
    )


def to_table(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Build a table of the schema from arrays of one or two axes."""
    arrays = []
    for field in schema:
        type_, values = field.type, columns[field.name]
        if pa.types.is_fixed_size_list(type_):
            flat = pa.array(values.ravel(), type_.value_type)
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=type_))
        else:
            arrays.append(pa.array(values, type_))
    return pa.Table.from_arrays(arrays, schema=schema)


def to_cells(table: pa.Table) -> Cells:
    """Take the cells out of a table that has their columns."""
    arrays = {}
    for name in Cells.__dataclass_fields__:
        column = table.column(name).combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            size = column.type.list_size
            arrays[name] = np.asarray(column.flatten()).reshape(len(column), size)
        else:
            arrays[name] = np.asarray(column)
    return Cells(**arrays)


def _columns(spec: StoreSpec) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    return {
        "row": (np.dtype(np.int32), ()),
        "view_index": (np.dtype(np.int16), ()),
        **cell_shapes(spec),
    }


def _arrow_type(dtype: np.dtype[Any], size: int | None = None) -> pa.DataType:
    of_one = pa.from_numpy_dtype(dtype)
    return of_one if size is None else pa.list_(pa.field("element", of_one, nullable=False), size)
