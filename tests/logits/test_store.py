"""The contract of the logit store, from the reader's side, for both formats on two storages."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import FingerprintMismatch, Status, StoreCorrupt, StoreIncomplete
from pipeline.logits import store
from pipeline.logits.generations import find_generation
from pipeline.logits.spec import EVALUATION_VIEW, build_identity
from pipeline.logits.store import backend_of, open_store
from pipeline.storage.files import exists, join_uri, read_bytes, write_bytes
from pipeline.storage.sealed.store import finished_units, open_for_writing


def test_round_trip_is_exact(example, root):
    seal = example.write_store(root)
    store = open_store(root)
    store.verify()
    grid = store.read_all()
    for unit in example.units:
        cells = example.compute(unit)
        slots = [store.spec.view_indices.index(view) for view in cells.view_index]
        for name in ("status", "logits", "logit_offset", "view_digest", "frame_crc"):
            found = getattr(grid, name)[cells.row, slots]
            assert found.dtype == getattr(cells, name).dtype
            np.testing.assert_array_equal(found, getattr(cells, name))
    records = example.manifest.records
    assert grid.sample_id == tuple(record.sample_id for record in records)
    assert grid.label.tolist() == [record.label for record in records]
    assert (store.root_digest, store.spec) == (seal.root_digest, example.spec)


def test_only_unwanted_cells_are_missing(example, root):
    example.write_store(root)
    status = open_store(root).read_all().status
    training = np.array([record.split == "train" for record in example.manifest.records])
    assert ((status[:, :-1] != Status.MISSING) == training[:, None]).all()
    assert ((status[:, -1] != Status.MISSING) == ~training).all()
    assert (status[7, :-1] == Status.UNREADABLE).all()


def test_root_digest_does_not_depend_on_the_order(example, root, tmp_path):
    other = str(tmp_path / "other")
    assert (
        example.write_store(root).root_digest
        == example.write_store(other, backwards=True).root_digest
    )
    for name in [entry.name for entry in open_store(root).seal.files]:
        assert read_bytes(join_uri(root, name)) == read_bytes(join_uri(other, name))


def test_resume_after_half_gives_the_same_store(example, root, tmp_path):
    half = example.units[: len(example.units) // 2]
    example.write_units(root, half)
    assert finished_units(root) == {unit.number for unit in half}
    with pytest.raises(StoreIncomplete, match=r"shard 1 lacks the units \[5, 6, 7\]"):
        example.gather(root, example.shards[1])
    example.gather(root, example.shards[0])  # killed while sealing: one shard is there
    seal = example.write_store(root)
    assert seal.root_digest == example.write_store(str(tmp_path / "straight")).root_digest


def test_a_second_run_has_nothing_to_do(example, root):
    assert open_for_writing(root, example.spec) is None
    seal = example.write_store(root)
    assert open_for_writing(root, example.spec) == seal
    assert example.write_store(root, backwards=True) == seal  # the first provenance stays


def test_unsealed_store_says_how_far_it_is(example, root):
    with pytest.raises(StoreIncomplete, match="there is no logit store"):
        open_store(root)
    example.write_units(root, example.units[:3])
    with pytest.raises(StoreIncomplete, match="journal holds 3 of 10 units"):
        open_store(root)


def test_reading_finds_damage_without_verifying_first(sealed, tmp_path):
    root = Path(shutil.copytree(sealed[1], tmp_path / "copy"))
    for name in (entry.name for entry in open_store(str(root)).seal.files):
        path = root / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(StoreCorrupt, match=path.name):
            open_store(str(root)).read_all()
        path.write_bytes(content)


def test_seal_refuses_missing_shards(example, root):
    example.write_units(root, example.units)
    entries = example.gather(root, example.shards[0]) + example.gather(root, example.shards[2])
    with pytest.raises(StoreIncomplete, match="are not written"):
        store.seal_logits(root, example.spec, entries, provenance={})
    assert not exists(join_uri(root, "seal.json"))


def test_seal_refuses_other_files(example, root):
    example.write_store(root)
    entries = [replace(e, sha256="0" * 64) for e in open_store(root).seal.files]
    with pytest.raises(StoreCorrupt, match="root digest"):
        store.seal_logits(root, example.spec, entries, provenance={})


def test_part_of_a_shard_is_refused(example, root):
    example.write_store(root)
    grid = open_store(root).read_shard(0)
    arrays = {name: value[:-1] for name, value in vars(grid).items()}
    with pytest.raises(ValueError, match="shard 0 has 12 rows, not 11"):
        backend_of(example.spec).encode_shard(example.spec, 0, type(grid)(**arrays))


def test_another_identity_is_refused_by_name(example, root):
    example.write_store(root)
    config = example.config(views={"num_views": 2, "seed": 9})
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
        open_for_writing(root, example.spec_of(views={"num_views": 3, "seed": 9}))
    layout = {"format": example.format, "clips_per_unit": 10, "units_per_shard": 5}
    with pytest.raises(FingerprintMismatch, match=r"layout\.units_per_shard: store 4, config 5"):
        open_for_writing(root, example.spec_of(store=layout))


def test_another_schema_is_refused(example, root):
    other = replace(example.spec, identity=example.spec.identity | {"schema_version": 2})
    open_for_writing(root, other)
    with pytest.raises(FingerprintMismatch, match="schema_version: store 2, config 1"):
        open_for_writing(root, example.spec)


def test_files_that_are_not_ours_are_ignored(example, root):
    write_bytes(join_uri(root, "journal", "unit-000001.parquet.tmp"), b"rubbish")
    write_bytes(join_uri(root, "journal", "notes.txt"), b"rubbish")
    seal = example.write_store(root)
    assert len(finished_units(root)) == 10
    write_bytes(join_uri(root, "logits.zarr", "logits", "c", "99", "0", "0"), b"rubbish")
    assert open_store(root).root_digest == seal.root_digest
    open_store(root).verify()
    assert len(open_store(root).read_all()) == len(example.manifest.records)


def test_unknown_view_and_views_axis(example):
    assert example.spec.slots([2, EVALUATION_VIEW, 0]).tolist() == [2, 3, 0]
    with pytest.raises(StoreIncomplete, match=r"not \[3, 7\]"):
        example.spec.slots([0, 7, 3])


def test_footer_of_a_stray_file_says_what_it_is(example, local_root):
    example.write_store(local_root)
    if example.format == "parquet":
        uri = join_uri(local_root, backend_of(example.spec).shard_names(0)[0])
        assert pq.read_schema(uri).metadata[b"fingerprint"].decode() == example.spec.fingerprint
    else:
        metadata = read_bytes(join_uri(local_root, "logits.zarr", "zarr.json")).decode()
        assert example.spec.fingerprint in metadata
