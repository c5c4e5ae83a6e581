"""Garbage of a frame store: what no store can hold, and the JPEGs that the journal holds twice."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from pipeline.collect_garbage import run_gc
from pipeline.errors import FingerprintMismatch
from pipeline.frame_store import writer
from pipeline.frame_store.garbage import find_garbage
from pipeline.frame_store.reader import open_frame_store
from pipeline.frames import frames_of
from pipeline.sealed.journal import finished_units, fragment_name
from pipeline.storage import delete, list_tree
from tests.pipeline.logit_store.imaginary import Plan, Video, cache

TORN = f".unit-000001.parquet.{'0a' * 16}.tmp"


def collect(root: Path, *, journals: bool = False) -> list[tuple[str, str]]:
    """Delete all garbage, whatever its age; return kinds and names."""
    found = find_garbage(str(root), written_before=time.time() + 1e6, journals=journals)
    assert all(delete(each.uri) for each in found)
    return sorted((each.kind, each.uri[len(str(root)) + 1 :]) for each in found)


def litter(root: Path) -> list[tuple[str, str]]:
    """Leave what killed writers and other programs leave."""
    garbage = {f"journal/{TORN}": "temporary file", fragment_name(99): "orphan"}
    for name in (*garbage, "notes.txt"):
        (root / name).write_bytes(b"rubbish")
    return sorted((kind, name) for name, kind in garbage.items())


@pytest.fixture
def root(sealed_root, tmp_path) -> Path:
    """A sealed store of one's own."""
    return Path(shutil.copytree(sealed_root, tmp_path / "frames"))


def test_only_garbage_is_collected(root):
    own = set(list_tree(str(root)))
    littered = litter(root)
    assert find_garbage(str(root), written_before=time.time() - 60) == []
    assert collect(root) == littered
    assert set(list_tree(str(root))) == own | {"notes.txt"}


def test_beside_a_writer_nothing_is_lost(example, sealed_root, tmp_path):
    """After every single step of a writer, with no regard for age, and journals asked for."""
    root = tmp_path / "frames"
    writer.open_for_writing(str(root), example.spec)
    for unit in range(example.spec.num_units):
        assert collect(root, journals=True) == []
        example.write_unit(str(root), unit)
    assert collect(root, journals=True) == []
    sealed = open_frame_store(str(sealed_root)).root_digest
    assert example.seal(str(root)).root_digest == sealed


def test_the_journal_of_a_sealed_store_goes_if_that_is_asked_for(example, root):
    assert collect(root) == []
    names = [name for _, name in collect(root, journals=True)]
    assert names == [fragment_name(unit) for unit in range(example.spec.num_units)]
    assert not finished_units(str(root))
    store = open_frame_store(str(root))
    limits = example.config().dataset.limits
    for record in store.manifest.records:
        if record.good:
            wanted = range(record.num_frames)
            assert [index for index, _ in frames_of(record, wanted, limits)] == list(wanted)


def test_a_journal_stays_until_the_seal_is_old_enough(root):
    sealed_at = (root / "seal.json").stat().st_mtime
    assert find_garbage(str(root), written_before=sealed_at - 1, journals=True) == []


def test_without_a_store_there_are_only_temporary_files(tmp_path):
    (tmp_path / "journal").mkdir()
    litter(tmp_path)
    assert collect(tmp_path, journals=True) == [("temporary file", f"journal/{TORN}")]


def test_a_store_of_another_version_is_refused(root):
    identity = root / "identity.json"
    identity.write_text(identity.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(FingerprintMismatch, match="schema_version"):
        find_garbage(str(root), written_before=time.time())


def test_the_job_collects_both_stores(root, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.collect_garbage.MIRRORS", tmp_path / "mirrors")
    plan = Plan((Video("a"), Video("b", split="val")), num_views=1)
    config = plan.config.model_copy(update={"artefacts": str(tmp_path)})
    assert config.frames_uri == str(root)
    cache(config.store_uri, plan)
    run_gc(config, delete=True, min_age_hours=-1, journals=True)
    printed = capsys.readouterr().out
    for store in (config.store_uri, config.frames_uri):
        assert f"journal: {store}/{fragment_name(0)}\n" in printed
        assert not finished_units(store)
