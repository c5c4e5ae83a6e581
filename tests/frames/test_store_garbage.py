"""Garbage of a frame store: what no store can hold, and the JPEGs that the journal holds twice."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from pipeline.frames import store
from pipeline.frames.source import frames_of
from pipeline.frames.store import find_garbage, open_frame_store
from pipeline.stages.collect_garbage import run_gc
from pipeline.storage.files import delete, list_tree
from pipeline.storage.sealed.store import finished_units, fragment_name, open_for_writing
from tests.logits.imaginary import Plan, Video, cache

TORN = f"journal/.unit-000001.parquet.{'0a' * 16}.tmp"


def collect(root: Path, *, journals: bool = False) -> list[tuple[str, str]]:
    """Delete all garbage, whatever its age; return kinds and names."""
    found = find_garbage(str(root), written_before=time.time() + 1e6, journals=journals)
    assert all(delete(each.uri) for each in found)
    return sorted((each.kind, each.uri[len(str(root)) + 1 :]) for each in found)


@pytest.fixture
def root(sealed_root, tmp_path) -> Path:
    """A sealed store of one's own."""
    return Path(shutil.copytree(sealed_root, tmp_path / "frames"))


def test_only_garbage_is_collected(root):
    own = set(list_tree(str(root)))
    garbage = [("orphan", "journal/unit-000001.parquet.bak"), ("temporary file", TORN)]
    for name in ("notes.txt", *(name for _, name in garbage)):
        (root / name).write_bytes(b"rubbish")
    assert find_garbage(str(root), written_before=time.time() - 60) == []
    assert collect(root) == garbage
    assert set(list_tree(str(root))) == own | {"notes.txt"}


def test_beside_a_writer_nothing_is_lost(example, sealed_root, tmp_path):
    """After every single step of a store, with no regard for age, and journals asked for."""
    root, spec = tmp_path / "frames", example.spec
    open_for_writing(str(root), spec)
    for unit in range(spec.num_units):
        example.write_unit(str(root), unit)
        assert collect(root, journals=True) == []
    for number in range(spec.num_files):
        store.gather_file(str(root), spec, number)
        assert collect(root, journals=True) == []
    sealed = open_frame_store(str(sealed_root)).root_digest
    assert example.seal(str(root)).root_digest == sealed


@pytest.mark.parametrize("cached", [False, True])
def test_the_job_collects_every_store_that_is_there(root, cached, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline.stages.collect_garbage.MIRRORS", tmp_path / "mirrors")
    plan = Plan((Video("a"), Video("b", split="val")), num_views=1)
    config = plan.config.model_copy(update={"artefacts": str(tmp_path)})
    assert config.frames_uri == str(root)
    stores = [config.frames_uri]
    if cached:
        cache(config.store_uri, plan)
        stores.append(config.store_uri)
    run_gc(config, delete=True, min_age_hours=-1, journals=True)
    printed = capsys.readouterr().out
    for uri in stores:
        assert f"journal: {uri}/{fragment_name(0)}\n" in printed
        assert not finished_units(uri)
    for record in open_frame_store(str(root)).manifest.records:  # which needs no journal
        if record.good:
            wanted, limits = range(record.num_frames), config.dataset.limits
            assert [index for index, _ in frames_of(record, wanted, limits)] == list(wanted)
