"""Garbage is what no store can hold; collecting it beside a writer loses nothing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.errors import StoreIncomplete
from pipeline.logits import mirror
from pipeline.logits.examine import examine
from pipeline.logits.generations import find_garbage
from pipeline.logits.store import open_store
from pipeline.stages.collect_garbage import run_gc
from pipeline.storage.files import delete, exists, join_uri, list_tree, write_bytes
from pipeline.storage.sealed.store import finished_units, fragment_name
from tests.logits.imaginary import Plan, Teacher, Video, Writer, cache

VIDEOS = tuple(Video(f"v{n}", split="val" if n > 8 else "train") for n in range(11))
SMALL, GROWN = Plan(VIDEOS, num_views=1), Plan(VIDEOS, num_views=2)
TORN = f".unit-000001.parquet.{'0a' * 16}.tmp"
KEPT = ("journal/unit-000099.parquet", "notes.txt", "runs/mine.tmp")  # not ours, or not to judge
YEAR_SECONDS = 365 * 24 * 3600.0


def everything_is_old() -> float:
    return time.time() + YEAR_SECONDS


def collect(root: str, **options: bool) -> list[tuple[str, str]]:
    """Delete all garbage, whatever its age; return kinds and names."""
    found = find_garbage(root, written_before=everything_is_old(), **options)
    assert all(delete(each.uri) for each in found)
    return sorted((each.kind, each.uri[len(root) + 1 :]) for each in found)


def litter(home: str) -> list[tuple[str, str]]:
    """Leave what killed writers and other programs leave."""
    garbage = {
        f"journal/{TORN}": "temporary file",
        f".seal.json.{'1b' * 16}.tmp": "temporary file",
        "journal/unit-000001.parquet.bak": "orphan",
        "logits.zarr/logits/c/99/0/0": "orphan",
        "logits.parquet/shard-00000.parquet.bak": "orphan",
    }
    for name in (*garbage, *KEPT):
        write_bytes(join_uri(home, name), b"rubbish")
    return [(kind, name) for name, kind in garbage.items()]


@pytest.mark.parametrize(
    ("stopped_after", "format"),
    [
        ("place", "zarr"),
        ("inherit", "parquet"),
        ("unit", "zarr"),
        ("gather", "parquet"),
        ("seal", "zarr"),
    ],
)
def test_only_garbage_is_collected(root, format, stopped_after, tmp_path):
    small, grown = replace(SMALL, format=format), replace(GROWN, format=format)
    cache(root, small)
    job = Writer(root, grown, Teacher())
    for step in job.steps():
        if step == stopped_after:
            break
    before = {home: set(list_tree(home)) for home in (root, job.home)}
    littered = {home: litter(home) for home in before}
    below = job.home[len(root) + 1 :]
    expected = littered[root] + [(kind, f"{below}/{name}") for kind, name in littered[job.home]]
    assert collect(root) == sorted(expected)
    assert before[job.home] <= set(list_tree(job.home))
    assert all(exists(join_uri(root, name)) for name in KEPT)
    assert collect(root) == []
    assert cache(root, grown).seal == cache(str(tmp_path / "once"), grown).seal


def test_journals_of_sealed_stores_go_if_that_is_asked_for(local_root):
    cache(local_root, SMALL)
    job = Writer(local_root, GROWN, Teacher())
    for step in job.steps():
        if step == "unit":
            break
    kinds = {kind for kind, _ in collect(local_root, journals=True)}
    assert kinds == {"journal"}
    assert not finished_units(local_root)
    assert finished_units(job.home)
    records, policy = SMALL.manifest.records, SMALL.config.views
    assert not examine(open_store(local_root), records, policy).findings
    assert cache(local_root, GROWN).seal.root_digest


def test_a_second_writer_has_time_to_end_with_the_journal_of_a_sealed_store(local_root):
    cache(local_root, SMALL)
    for fragment in Path(local_root, "journal").iterdir():
        os.utime(fragment, (0, 0))
    sealed_at = os.stat(Path(local_root, "seal.json")).st_mtime
    for written_before, kinds in ((sealed_at - 1, set()), (sealed_at + 1, {"journal"})):
        found = find_garbage(local_root, written_before=written_before, journals=True)
        assert {each.kind for each in found} == kinds


def test_a_flipped_digit_of_the_layout_makes_no_paid_work_garbage(local_root):
    cache(local_root, SMALL)
    identity = Path(local_root, "identity.json")
    before = identity.read_text()
    identity.write_text(before.replace('"num_rows": 11', '"num_rows": 1'))
    assert identity.read_text() != before
    assert collect(local_root) == []


def test_a_folder_that_is_no_store_is_left_alone(root, tmp_path):
    write_bytes(join_uri(root, "journal", TORN), b"of whom?")
    assert collect(root) == []
    config = SMALL.config.model_copy(update={"artefacts": str(tmp_path / "elsewhere")})
    with pytest.raises(StoreIncomplete, match=r"neither a logit store at .*elsewhere/store nor"):
        run_gc(config, delete=True, min_age_hours=0, journals=False)


def test_gc_with_a_wrong_clock_loses_nothing(tmp_path):
    """It may take a file from under its writer, who then fails and comes again."""
    root, failures, ended = str(tmp_path / "store"), [], threading.Event()
    cache(root, SMALL)

    def collect() -> None:
        while not ended.is_set():
            for found in find_garbage(root, written_before=time.time() + 60):
                delete(found.uri)

    thread = threading.Thread(target=collect)
    thread.start()
    job = Writer(root, GROWN, Teacher())
    try:
        while job.seal is None and len(failures) < 200:
            try:
                job.finish()
            except FileNotFoundError as error:
                failures.append(str(error.filename))
    finally:
        ended.set()
        thread.join()
    assert all(name.endswith(".tmp") for name in failures)
    assert job.finish() == cache(str(tmp_path / "once"), GROWN).seal
    open_store(job.home).verify()


def test_superseded_mirrors(local_root, tmp_path):
    job = cache(local_root, SMALL)
    mirrors = tmp_path / "mirrors"
    mirror.open_mirror(local_root, mirrors)
    (mirrors / f"{'ab' * 32}{mirror.BUILDING}").mkdir()
    (mirrors / "frames").mkdir()
    now = everything_is_old()
    (half, size), *others = mirror.find_superseded(mirrors, written_before=now)
    assert (half.name, size, others) == (f"{'ab' * 32}{mirror.BUILDING}", 0, [])
    assert list(mirror.find_superseded(mirrors, written_before=time.time() - 60)) == []
    assert mirror.remove_mirror(half)
    shutil.rmtree(local_root)
    ((folder, size),) = mirror.find_superseded(mirrors, written_before=now)
    assert (folder.name, size > 1000) == (job.seal.root_digest, True)
    with FileLock(f"{folder}.lock"):
        assert not mirror.remove_mirror(folder)
    assert mirror.remove_mirror(folder)
    assert list(mirror.find_superseded(mirrors, written_before=now)) == []


def test_the_job_lists_and_deletes_only_when_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.stages.collect_garbage.MIRRORS", tmp_path / "mirrors")
    config = SMALL.config.model_copy(update={"artefacts": str(tmp_path)})
    cache(config.store_uri, SMALL)
    torn = [Path(config.store_uri, "journal", TORN), tmp_path / TORN]
    for path in torn:
        path.write_bytes(b"rubbish")
        os.utime(path, (0, 0))
    Path(config.store_uri, fragment_name(99)).write_bytes(b"young")
    run_gc(config, delete=False, min_age_hours=24, journals=False)
    printed = capsys.readouterr().out
    assert all(f"temporary file: {path}\n" in printed for path in torn)
    assert "2 things, 14 bytes to delete, with --delete" in printed
    assert all(path.exists() for path in torn)
    run_gc(config, delete=True, min_age_hours=24, journals=False)
    assert "2 things, 14 bytes deleted" in capsys.readouterr().out
    assert not any(path.exists() for path in torn)
    run_gc(config, delete=True, min_age_hours=24, journals=False)
    assert "no garbage" in capsys.readouterr().out
