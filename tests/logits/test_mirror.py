"""The mirror gives what the store holds, to many processes, and heals."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

from pipeline.errors import StoreIncomplete
from pipeline.logits.mirror import Mirror, open_mirror
from pipeline.logits.store import open_store
from pipeline.storage.files import sha256_of
from pipeline.storage.locks import JOB_VARIABLE
from tests.logits.imaginary import BAD_VIDEO

ARRAYS = ("status", "logits", "logit_offset", "view_digest", "frame_crc", "label")


def content_of(mirror: Mirror) -> str:
    return sha256_of(b"".join(getattr(mirror, name).tobytes() for name in ARRAYS))


def test_mirror_equals_store(sealed, tmp_path):
    example, root = sealed
    store = open_store(root)
    grid, mirror = store.read_all(), open_mirror(root, tmp_path)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(mirror, name), getattr(grid, name))
        assert isinstance(getattr(mirror, name), np.memmap)
    names, views = ("v_000_ü", "v_003_ü", "v_003_ü", "v_025_ü"), np.array([2, 0, 1, -1])
    rows = np.array([example.row_of(name) for name in names])
    logits = mirror.teacher_logits(rows, views)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, grid.logits[rows, [2, 0, 1, 3]])
    assert mirror.root_digest == store.root_digest
    digest, frame_crc = mirror.proof_of(rows[3], -1)
    assert digest == grid.view_digest[rows[3], 3]
    np.testing.assert_array_equal(frame_crc, grid.frame_crc[rows[3], 3])


def test_cells_without_logits_are_an_error(sealed, tmp_path):
    example, root = sealed
    mirror = open_mirror(root, tmp_path)
    good, bad, val = (example.row_of(name) for name in ("v_000_ü", BAD_VIDEO, "v_025_ü"))
    with pytest.raises(StoreIncomplete, match=f"row {bad}, view 1 holds no logits: UNREADABLE"):
        mirror.teacher_logits([good, bad], [0, 1])
    with pytest.raises(StoreIncomplete, match=f"row {val}, view 0 holds no logits: MISSING"):
        mirror.teacher_logits([val], [0])
    with pytest.raises(StoreIncomplete, match="MISSING"):
        mirror.proof_of(val, 0)


def test_two_processes_share_one_mirror(store_uri, tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(open_mirror, [(store_uri, tmp_path)] * 2)
    assert content_of(first) == content_of(second) == content_of(open_mirror(store_uri, tmp_path))
    digest = open_store(store_uri).root_digest
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {digest, f"{digest}.lock", f"{digest}.verified"}


def test_damage_is_found_by_the_next_job(store_uri, tmp_path, caplog, monkeypatch):
    """What is healed is tried for every file and damage in ``test_bit_rot.py``."""
    monkeypatch.setenv(JOB_VARIABLE, "first")
    before = content_of(open_mirror(store_uri, tmp_path))
    path = tmp_path / open_store(store_uri).root_digest / "label.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert content_of(open_mirror(store_uri, tmp_path)) != before  # a job hashes it only once
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert content_of(pool.apply(open_mirror, (store_uri, tmp_path))) != before
    killed = path.parent.with_name(f"{path.parent.name}.building")  # while it was made
    killed.mkdir()
    (killed / "logits.npy").write_bytes(b"half")
    monkeypatch.setenv(JOB_VARIABLE, "next")
    assert content_of(open_mirror(store_uri, tmp_path)) == before
    assert "label.npy is damaged" in caplog.text
    assert not killed.exists()
