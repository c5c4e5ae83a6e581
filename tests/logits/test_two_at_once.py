"""Two at once at one root: one store, or two, and never a mixed one."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import FingerprintMismatch
from pipeline.logits.generations import find_garbage, list_generations
from pipeline.logits.store import open_store
from pipeline.storage.files import delete
from tests.logits.imaginary import Plan, Teacher, Video, Writer, cache

VIDEOS = tuple(Video(f"v{n}", split="val" if n > 8 else "train") for n in range(11))
SMALL, GROWN = Plan(VIDEOS, num_views=1), Plan((*VIDEOS, Video("v55")), num_views=2)
OTHER_SEED = replace(SMALL, seed=7)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Plan], Any]:
    """Return the seal that one writer alone makes of a plan."""
    folder = tmp_path_factory.mktemp("once")
    seals = {
        plan: cache(str(folder / str(place)), plan).seal
        for place, plan in enumerate((SMALL, GROWN, OTHER_SEED))
    }
    return seals.__getitem__


def test_two_processes_make_one_store(tmp_path, undisturbed):
    root = str(tmp_path / "store")
    cache(root, SMALL)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        seals = [job.seal for job in pool.starmap(cache, [(root, GROWN)] * 2)]
    assert seals == [undisturbed(GROWN)] * 2
    for home in list_generations(root):
        open_store(home).verify()


@given(turns=st.lists(st.integers(0, 1), min_size=2, max_size=8))
@settings(max_examples=10)
def test_two_configs_at_one_root_never_mix(tmp_path_factory, undisturbed, turns):
    root = str(tmp_path_factory.mktemp("root") / "store")
    jobs = [Writer(root, plan, Teacher()) for plan in (SMALL, OTHER_SEED)]
    at_work, refused = [job.steps() for job in jobs], {}
    for turn in [*turns, *[0] * 99, *[1] * 99]:
        try:
            next(at_work[turn], None)
        except FingerprintMismatch as error:
            refused[turn] = set(error.differences)
    ((loser, differing),) = refused.items()
    winner = jobs[1 - loser]
    assert differing == {"views.seed"}
    assert not jobs[loser].teacher.forwards
    assert open_store(root).seal == winner.seal == undisturbed(winner.plan)
    tables = [path for path in Path(root).rglob("*.parquet") if path.is_file()]
    found = {pq.read_schema(path).metadata[b"fingerprint"] for path in tables}
    assert found == {winner.plan.spec.fingerprint.encode()}


def test_gc_with_a_wrong_clock_loses_nothing(tmp_path, undisturbed):
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
    assert job.finish() == undisturbed(GROWN)
    open_store(job.home).verify()
