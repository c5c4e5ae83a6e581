"""Damage to any file is found, or changes nothing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreCorrupt, StoreIncomplete
from pipeline.logits import journal
from pipeline.logits.store import open_store
from pipeline.storage.sealed.identity import IDENTITY_NAME
from pipeline.storage.sealed.journal import fragment_name
from pipeline.storage.sealed.seal import SEAL_NAME

FLIPS = 200


@pytest.fixture
def copy(sealed, tmp_path):
    """A copy of the sealed store that a test may damage."""
    example, root = sealed
    shutil.copytree(root, tmp_path / "copy")
    return example, tmp_path / "copy"


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def verify(root: Path) -> None:
    open_store(str(root)).verify()


def complaint_of(action: Callable[..., object], *arguments: object) -> str | None:
    """Return the message of the StoreCorrupt that an action raises, if it does."""
    try:
        action(*arguments)
    except StoreCorrupt as error:
        return str(error)
    return None


def kinds(root: Path) -> list[list[Path]]:
    """Group the files of a sealed store, so that every kind is damaged equally often."""
    sealed = [root / entry.name for entry in open_store(str(root)).seal.files]
    metadata = [path for path in sealed if path.name in ("zarr.json", IDENTITY_NAME)]
    shards = [path for path in sealed if path not in metadata]
    return [[root / SEAL_NAME], metadata, shards]


def test_bit_flips_in_a_sealed_store(copy, grids_equal):
    _, root = copy
    before = open_store(str(root)).read_all()
    draws, num_found = random.Random(0), 0
    groups = kinds(root)
    for number in range(FLIPS):
        path = draws.choice(groups[number % len(groups)])
        content = path.read_bytes()
        path.write_bytes(flipped(content, draws.randrange(8 * len(content))))
        complaint = complaint_of(verify, root)
        if complaint is None:  # the provenance is free text
            assert path.name == SEAL_NAME
            assert grids_equal(open_store(str(root)).read_all(), before)
        else:
            assert path.name in complaint
            num_found += 1
        path.write_bytes(content)
    assert num_found > 0.95 * FLIPS


def test_reading_finds_what_verifying_finds(copy):
    _, root = copy
    for path in kinds(root)[2]:
        content = path.read_bytes()
        path.write_bytes(flipped(content, 4 * len(content)))
        with pytest.raises(StoreCorrupt, match=path.name):
            open_store(str(root)).read_all()
        path.write_bytes(content)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncation(copy, share):
    example, root = copy
    for path in [path for kind in kinds(root) for path in kind]:
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(StoreCorrupt, match=path.name):
            open_store(str(root)).verify()
        path.write_bytes(content)
    fragment = root / fragment_name(0)
    fragment.write_bytes(fragment.read_bytes()[: int(share * fragment.stat().st_size)])
    with pytest.raises(StoreCorrupt, match=fragment.name):
        example.gather(str(root), example.shards[0])


def test_swapped_fragments_and_foreign_fragments(copy):
    example, root = copy
    first, second = (root / fragment_name(number) for number in (0, 1))
    first.write_bytes(second.read_bytes())
    with pytest.raises(StoreCorrupt, match="unit 0"):
        journal.read_fragment(str(root), example.spec, example.units[0])
    other = example.spec_of(views={"num_views": 3, "seed": 5})
    with pytest.raises(StoreCorrupt, match=f"fingerprint {other.fingerprint}"):
        journal.read_fragment(str(root), other, example.units[1])


def test_a_store_without_its_seal(copy):
    _, root = copy
    (root / SEAL_NAME).unlink()
    with pytest.raises(StoreIncomplete, match="10 of 10"):
        open_store(str(root))


def test_extension_types_are_refused_before_they_are_read(copy):
    example, root = copy
    path = root / fragment_name(0)
    table = pq.read_table(path)
    uuids = pa.array([bytes(16)] * len(table), pa.uuid())
    pq.write_table(table.set_column(0, "row", uuids), path)
    with pytest.raises(StoreCorrupt, match="columns"):
        journal.read_fragment(str(root), example.spec, example.units[0])
