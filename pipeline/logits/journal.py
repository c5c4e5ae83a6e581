"""Fragments of the journal: the cells of one unit that the teacher has finished, as Parquet."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np

from pipeline.errors import Status, StoreCorrupt
from pipeline.logits.cells import Cells, bad_logits, cell_schema, cell_shapes, to_cells, to_table
from pipeline.logits.spec import StoreSpec, Unit
from pipeline.storage.files import create_bytes, join_uri, read_bytes
from pipeline.storage.sealed.store import (
    JOURNAL_NAME,
    FileEntry,
    entry_of,
    fragment_footer,
    fragment_name,
)
from pipeline.storage.sealed.tables import check_footer, decode_table, encode_table

# The most by which a logit may differ when a unit is run again. Another kind of GPU changes last
# bits; another view or other weights change far more.
MAX_REDO_DIFFERENCE = 0.05


class Written(NamedTuple):
    """A fragment of the journal, and by how much a second run of its unit differed from it."""

    entry: FileEntry
    redo_difference: float


def write_fragment(root: str, spec: StoreSpec, unit: Unit, cells: Cells) -> Written:
    """Journal the cells of a unit; if a fragment is there already, the first one stays.

    StoreCorrupt if that differs by more than the rounding of logits; ValueError if these are not
    the cells of the unit, in order, or one holds values that may never be stored.
    """
    _check(cells, unit, spec)
    name, content = fragment_name(unit.number), _encode(spec, unit.number, cells)
    uri = join_uri(root, name)
    if create_bytes(uri, content) or (there := read_bytes(uri)) == content:
        return Written(entry_of(name, content), 0.0)
    first = read_fragment(root, spec, unit)
    difference = _difference(first, cells)
    # Far from the top one a logit has steps of this size in float16.
    rounding = float(np.abs(first.logits.astype(np.float32)).max(initial=0.0)) * 2**-9
    if not difference <= MAX_REDO_DIFFERENCE + rounding:
        raise StoreCorrupt(
            uri,
            expected="what the unit gives when it is run again",
            found="other cells" if difference == math.inf else f"logits {difference:.3g} apart",
        )
    return Written(entry_of(name, there), difference)


def read_fragment(root: str, spec: StoreSpec, unit: Unit) -> Cells:
    """Read and verify the cells of a unit.

    FileNotFoundError if the unit is not in the journal; StoreCorrupt if its fragment is damaged, or
    of another unit or fingerprint.
    """
    cells = _read(root, spec, unit.number, fragment_name(unit.number))
    if cells.coordinates != unit.coordinates:
        uri = join_uri(root, fragment_name(unit.number))
        raise StoreCorrupt(uri, expected=f"the cells of {unit}", found=f"{cells.coordinates}")
    return cells


def inherited_name(unit: int) -> str:
    """Return the name of the file of cells that a unit inherits, below the root of the store."""
    return f"{JOURNAL_NAME}/inherited-{unit:06d}.parquet"


def create_inherited(root: str, spec: StoreSpec, unit: int, cells: Cells) -> bool:
    """Record which cells a unit inherits; return False if that is recorded already."""
    return create_bytes(join_uri(root, inherited_name(unit)), _encode(spec, unit, cells))


def read_inherited(root: str, spec: StoreSpec, unit: int) -> Cells:
    """Read and verify the cells that a unit inherits; raises as ``read_fragment``."""
    return _read(root, spec, unit, inherited_name(unit))


def _difference(first: Cells, second: Cells) -> float:
    """Return the largest difference between logits; infinity if anything else differs."""
    for name in ("status", "view_digest", "frame_crc"):
        if not np.array_equal(getattr(first, name), getattr(second, name)):
            return math.inf
    one, other = (
        cells.logits.astype(np.float64) + cells.logit_offset[:, None] for cells in (first, second)
    )
    return float(np.abs(one - other).max(initial=0.0))


def _encode(spec: StoreSpec, unit: int, cells: Cells) -> bytes:
    schema = cell_schema(spec).with_metadata(_footer(cells, unit, spec))
    return encode_table(to_table(vars(cells), schema))


def _read(root: str, spec: StoreSpec, unit: int, name: str) -> Cells:
    uri = join_uri(root, name)
    table = decode_table(read_bytes(uri), cell_schema(spec), uri=uri)
    cells = to_cells(table)
    check_footer(table, _footer(cells, unit, spec), uri=uri)
    return cells


def _footer(cells: Cells, unit: int, spec: StoreSpec) -> dict[bytes, bytes]:
    content = hashlib.sha256()
    for name, values in vars(cells).items():
        content.update(f"{name} {values.dtype.str} {values.shape}".encode())
        content.update(values.tobytes())
    return fragment_footer(spec.fingerprint, unit, content.hexdigest())


def _check(cells: Cells, unit: Unit, spec: StoreSpec) -> None:
    """Refuse cells that no stage may make, before they are stored for ever."""
    for name, (dtype, shape) in cell_shapes(spec).items():
        values, expected = getattr(cells, name), (dtype, (len(cells), *shape))
        if (values.dtype, values.shape) != expected:
            raise ValueError(f"{name} must be {expected}, found {values.dtype}, {values.shape}")
    if cells.coordinates != unit.coordinates:
        raise ValueError(f"cells {cells.coordinates} are not those of {unit}")
    if not np.isin(cells.status, [status for status in Status if status]).all():
        raise ValueError(f"unit {unit.number} holds cells that are missing or of unknown status")
    good = cells.status == Status.GOOD
    logits = cells.logits
    if bad_logits(logits[good]).any() or (logits[good].max(axis=1) != 0).any():
        raise ValueError(f"unit {unit.number} holds logits that are bad or not centred")
    if logits[~good].any() or cells.logit_offset[~good].any():
        raise ValueError(f"unit {unit.number} holds logits in cells that are not good")
