"""The contract of the logit store, from the reader's side, for both formats on two storages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import FingerprintMismatch, Status, StoreCorrupt, StoreIncomplete
from pipeline.logits import store
from pipeline.logits.cells import bad_logits, centre
from pipeline.logits.generations import find_generation
from pipeline.logits.shards import shard_names
from pipeline.logits.spec import build_identity
from pipeline.logits.store import open_store
from pipeline.storage.files import exists, join_uri, read_bytes, write_bytes
from pipeline.storage.sealed.store import finished_units, open_for_writing
from tests.logits.imaginary import BAD_VIDEO


def test_round_trip_is_exact(example, root):
    seal = example.write_store(root)
    store = open_store(root)
    store.verify()
    grid = store.read_all()
    for unit in example.units:
        cells = example.compute(unit)
        slots = store.spec.slots(cells.view_index)
        for name in ("status", "logits", "logit_offset", "view_digest", "frame_crc"):
            found = getattr(grid, name)[cells.row, slots]
            assert found.dtype == getattr(cells, name).dtype
            np.testing.assert_array_equal(found, getattr(cells, name))
    records = example.manifest.records
    assert grid.sample_id == tuple(record.sample_id for record in records)
    assert grid.label.tolist() == [record.label for record in records]
    assert (store.root_digest, store.spec) == (seal.root_digest, example.spec)
    training = np.array([record.split == "train" for record in records])
    assert ((grid.status[:, :-1] != Status.MISSING) == training[:, None]).all()
    assert ((grid.status[:, -1] != Status.MISSING) == ~training).all()
    assert (grid.status[example.row_of(BAD_VIDEO), :-1] == Status.UNREADABLE).all()


def test_root_digest_does_not_depend_on_the_order(example, root, tmp_path):
    other = str(tmp_path / "other")
    assert (
        example.write_store(root).root_digest
        == example.write_store(other, backwards=True).root_digest
    )
    for name in [entry.name for entry in open_store(root).seal.files]:
        assert read_bytes(join_uri(root, name)) == read_bytes(join_uri(other, name))


def test_resume_after_half_gives_the_same_store(example, root, tmp_path):
    with pytest.raises(StoreIncomplete, match="there is no logit store"):
        open_store(root)
    half = example.units[: len(example.units) // 2]
    example.write_units(root, half)
    assert finished_units(root) == {unit.number for unit in half}
    with pytest.raises(StoreIncomplete, match="journal holds 5 of 10 units"):
        open_store(root)
    with pytest.raises(StoreIncomplete, match=r"shard 1 lacks the units \[5, 6, 7\]"):
        example.gather(root, example.shards[1])
    example.gather(root, example.shards[0])  # killed while sealing: one shard is there
    seal = example.write_store(root)
    assert seal.root_digest == example.write_store(str(tmp_path / "straight")).root_digest
    assert open_for_writing(root, example.spec) == seal
    assert example.write_store(root, backwards=True) == seal  # the first provenance stays


def test_seal_refuses_missing_shards_and_other_files(example, root):
    example.write_units(root, example.units)
    entries = example.gather(root, example.shards[0]) + example.gather(root, example.shards[2])
    with pytest.raises(StoreIncomplete, match="are not written"):
        store.seal_logits(root, example.spec, entries, provenance={})
    assert not exists(join_uri(root, "seal.json"))
    example.write_store(root)
    entries = [replace(e, sha256="0" * 64) for e in open_store(root).seal.files]
    with pytest.raises(StoreCorrupt, match="root digest"):
        store.seal_logits(root, example.spec, entries, provenance={})


def test_another_identity_is_refused_by_name(example, root):
    example.write_store(root)
    config = replace(example, num_views=2, seed=9).config
    identity = build_identity(config, manifest=example.manifest, teacher_digest="cd")
    with pytest.raises(FingerprintMismatch) as caught:
        find_generation(root, identity)
    assert caught.value.differences == {
        "teacher.weights_sha256": ("ab" * 32, "cd"),
        "views.num_views": (3, 2),
        "views.seed": (0, 9),
    }
    assert find_generation(root, example.spec.identity) == root


def test_nothing_is_added_to_another_store(example, root):
    open_for_writing(root, example.spec)
    with pytest.raises(FingerprintMismatch, match=r"views\.seed: store 0, config 9"):
        open_for_writing(root, replace(example, seed=9).spec)
    with pytest.raises(FingerprintMismatch, match=r"layout\.units_per_shard: store 4, config 5"):
        open_for_writing(root, replace(example, units_per_shard=5).spec)
    later = replace(example.spec, identity=example.spec.identity | {"schema_version": 2})
    open_for_writing(f"{root}/later", later)
    with pytest.raises(FingerprintMismatch, match="schema_version: store 2, config 1"):
        open_for_writing(f"{root}/later", example.spec)


def test_files_that_are_not_ours_are_ignored(example, root):
    write_bytes(join_uri(root, "journal", "unit-000001.parquet.tmp"), b"rubbish")
    write_bytes(join_uri(root, "journal", "notes.txt"), b"rubbish")
    seal = example.write_store(root)
    assert len(finished_units(root)) == 10
    write_bytes(join_uri(root, "logits.zarr", "logits", "c", "99", "0", "0"), b"rubbish")
    assert open_store(root).root_digest == seal.root_digest
    open_store(root).verify()
    assert len(open_store(root).read_all()) == len(example.manifest.records)


def test_plain_zarr_or_pandas_reads_it(sealed):
    example, root = sealed
    grid = open_store(root).read_all()
    if example.format == "zarr":
        group = zarr.open_group(f"{root}/logits.zarr", mode="r")
        np.testing.assert_array_equal(group["logits"][:], grid.logits)
        assert group["sample_id"][:].tolist() == list(grid.sample_id)
        assert group["logits"].shards == (12, 4, 5)
        assert group["logits"].chunks == (12, 1, 5)
        assert group.attrs["view_indices"] == [0, 1, 2, -1]
        assert group.attrs["fingerprint"] == example.spec.fingerprint
        return
    frame = pd.read_parquet(f"{root}/logits.parquet")
    assert len(frame) == int((grid.status != Status.MISSING).sum())
    row = example.row_of("v_003_ü")
    line = frame[(frame["row"] == row) & (frame["view_index"] == 1)].iloc[0]
    np.testing.assert_array_equal(line["logits"], grid.logits[row, 1])
    assert (line["sample_id"], line["label"]) == ("v_003_ü", 3)
    schema = pq.read_schema(join_uri(root, shard_names(example.spec, 0)[0]))
    assert schema.metadata[b"fingerprint"].decode() == example.spec.fingerprint
    assert not any(isinstance(field.type, pa.BaseExtensionType) for field in schema)
    assert schema.field("logits").type == pa.list_(
        pa.field("element", pa.float16(), nullable=False), 5
    )


FLOATS = st.floats(-3e4, 3e4, width=32)
LOGITS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 9)), elements=FLOATS)


@given(LOGITS)
def test_error_is_within_half_a_float16_step(logits):
    centred, offset = centre(logits)
    assert (centred.max(axis=1) == 0).all()
    exact = logits - offset[:, None]
    error = np.abs(centred.astype(np.float64) - exact)
    assert (error <= np.abs(exact) * 2.0**-11 + 2.0**-25).all()


def test_distances_beyond_float16_stay_finite():
    centred, _ = centre(np.array([[3e38, -3e38], [0, -1e9]], np.float32))
    assert centred.tolist() == [[0, -65504], [0, -65504]]


def test_bad_logits():
    rows = [[1, 2, 3], [np.nan, 0, 1], [np.inf, 0, 1], [-np.inf, 0, 1], [4, 4, 4], [0, 0, 1e-7]]
    assert bad_logits(np.array(rows)).tolist() == [False, True, True, True, True, False]
