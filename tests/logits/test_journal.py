"""The journal takes only whole, sane units, once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import Status, StoreCorrupt
from pipeline.logits import journal
from pipeline.storage.sealed.store import finished_units


def test_a_fragment_is_written_once(example, root):
    unit = example.units[0]
    cells = example.compute(unit)
    first = journal.write_fragment(root, example.spec, unit, cells)
    assert journal.write_fragment(root, example.spec, unit, cells) == first
    assert first.entry.name == "journal/unit-000000.parquet"
    other = replace(cells, logit_offset=cells.logit_offset + 1)
    with pytest.raises(StoreCorrupt, match=r"unit-000000\.parquet[\s\S]*logits 1 apart"):
        journal.write_fragment(root, example.spec, unit, other)
    other = replace(cells, frame_crc=cells.frame_crc + 1)
    with pytest.raises(StoreCorrupt, match="other cells"):
        journal.write_fragment(root, example.spec, unit, other)
    rounded = replace(cells, logit_offset=cells.logit_offset + np.float32(0.01))
    again = journal.write_fragment(root, example.spec, unit, rounded)
    assert again.entry == first.entry, "the first one stays"
    assert again.redo_difference == pytest.approx(0.01, abs=1e-5)
    found = journal.read_fragment(root, example.spec, unit)
    assert all((vars(found)[name] == value).all() for name, value in vars(cells).items())


def spoil(cells, name, value):
    values = getattr(cells, name).copy()
    values[1] = value
    return replace(cells, **{name: values})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("row", 9, "are not those of"),
        ("view_index", 0, "are not those of"),
        ("status", Status.MISSING, "missing or of unknown status"),
        ("status", 99, "missing or of unknown status"),
        ("status", Status.CRASHED, "in cells that are not good"),
        ("logits", np.nan, "bad or not centred"),
        ("logits", -np.inf, "bad or not centred"),
        ("logits", 0, "bad or not centred"),
        ("logits", [1, 0, 0, 0, 0], "bad or not centred"),
        ("logits", [-1, -2, -3, -4, -5], "bad or not centred"),
    ],
)
def test_insane_cells_are_refused(example, local_root, name, value, message):
    unit = example.units[0]
    with pytest.raises(ValueError, match=message):
        journal.write_fragment(
            local_root, example.spec, unit, spoil(example.compute(unit), name, value)
        )
    assert finished_units(local_root) == set()


def test_a_fragment_of_another_store_is_refused(example, local_root):
    example.write_units(local_root, example.units[:1])
    other = replace(example, seed=5).spec
    with pytest.raises(StoreCorrupt, match=f"fingerprint {other.fingerprint}"):
        journal.read_fragment(local_root, other, example.units[0])
