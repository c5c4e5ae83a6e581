"""A store grows by exactly the forward passes that are missing, and into the store it would have
been at once."""

from __future__ import annotations

import multiprocessing
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import FingerprintMismatch, Status, StoreIncomplete
from pipeline.logits.generations import VIDEOS_NAME, list_generations
from pipeline.logits.store import open_store
from pipeline.storage.sealed.store import finished_units, read_verified
from tests.logits.imaginary import Plan, Teacher, Video, Writer, cache

TRAIN = tuple(Video(f"v{n}", good=n != 4) for n in range(9))
VAL = tuple(Video(f"w{n}", split="val") for n in range(3))
NEW = (Video("v00"), Video("v55"), Video("w00", split="val"))  # rows between the others
SMALL = Plan(TRAIN + VAL, num_views=1)
GROWN = {
    "views": replace(SMALL, num_views=3),
    "videos": replace(SMALL, videos=TRAIN + VAL + NEW),
    "both": replace(SMALL, videos=NEW + TRAIN + VAL, num_views=2),
}


@pytest.fixture
def root(memory_root: str) -> str:
    """Quicker than a disk; kills and damage are tried on disk."""
    return memory_root


@pytest.fixture(params=["parquet", "zarr"])
def small(request: pytest.FixtureRequest) -> Plan:
    return replace(SMALL, format=request.param)


@pytest.fixture(params=GROWN)
def grown(request: pytest.FixtureRequest, small: Plan) -> Plan:
    return replace(GROWN[request.param], format=small.format)


def missing(plan: Plan, *held: Plan) -> Counter[object]:
    """Every cell that a plan wants and that none of the others holds, once."""
    return Counter(set(plan.cells.values()) - {c for other in held for c in other.cells.values()})


def test_exactly_the_missing_cells_are_run(root, small, grown, tmp_path):
    before = cache(root, small)
    content = {entry: read_verified(root, entry) for entry in before.seal.files}
    teacher = Teacher()
    after = cache(root, grown, teacher)
    assert teacher.forwards == missing(grown, small)
    assert after.home != root
    assert {entry: read_verified(root, entry) for entry in before.seal.files} == content
    assert open_store(root).root_digest == before.seal.root_digest
    assert after.seal == cache(str(tmp_path / "once"), grown).seal


def test_the_journal_of_a_store_that_was_never_sealed_is_inherited(root, small, grown):
    job = Writer(root, small, Teacher())
    for step in job.steps():
        if step == "unit" and len(finished_units(root)) == 2:
            break
    held = set(job.teacher.forwards)
    teacher = Teacher()
    cache(root, grown, teacher)
    assert teacher.forwards == Counter(set(grown.cells.values()) - held)
    with pytest.raises(StoreIncomplete, match="journal holds 2 of"):
        open_store(root)


def test_a_generation_needs_no_other(tmp_path):
    local = str(tmp_path / "store")
    cache(local, SMALL)
    job = cache(local, GROWN["both"])
    alone = shutil.copytree(job.home, tmp_path / "alone")
    store = open_store(str(alone))
    store.verify()
    assert store.root_digest == job.seal.root_digest


def test_what_was_lost_on_the_way_is_tried_again(root):
    lost = {("v1", "v1 0", 0), ("w2", "w2 0", -1)}
    cache(root, SMALL, Teacher(lost=frozenset(lost)))
    teacher = Teacher()
    job = cache(root, GROWN["views"], teacher)
    assert teacher.forwards == missing(GROWN["views"], SMALL) + Counter(lost)
    bad = open_store(job.home).read_all().status == Status.TIMED_OUT
    assert not bad.any()


def test_labels_and_bad_videos_may_be_mended(root):
    cache(root, SMALL)
    mended = {"v2": replace(TRAIN[2], label=3), "v4": Video("v4", version=1)}
    plan = replace(SMALL, videos=tuple(mended.get(v.name, v) for v in SMALL.videos))
    teacher = Teacher()
    job = cache(root, plan, teacher)
    assert teacher.forwards == Counter([("v4", "v4 1", 0)])
    assert open_store(job.home).read_all().label[plan.row_of("v2")] == 3


def test_videos_that_are_gone_or_changed_are_named(root):
    cache(root, SMALL)
    videos = tuple(Video("v1", version=7) if v.name == "v1" else v for v in SMALL.videos[:-1])
    with pytest.raises(FingerprintMismatch) as caught:
        cache(root, replace(SMALL, videos=videos + NEW, num_views=2))
    assert caught.value.differences == {
        "video v1.sha256": ("v1 0", "v1 7"),
        "dataset.videos": ("11 good videos", "2 of them changed or gone"),
    } | {key: value for key, value in caught.value.differences.items() if "w2" in key}
    assert any(key.startswith("video w2") for key in caught.value.differences)
    assert list_generations(root) == [root]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_views": 1}, r"views\.num_views: store 3, config 1"),
        ({"seed": 5, "num_views": 4}, r"views\.seed: store 0, config 5"),
    ],
)
def test_a_store_only_grows(root, change, message):
    cache(root, GROWN["views"])
    with pytest.raises(FingerprintMismatch, match=message):
        cache(root, replace(GROWN["views"], **change))


def test_a_store_from_before_grows_in_views(tmp_path):
    root = tmp_path / "store"
    cache(str(root), SMALL)
    (root / VIDEOS_NAME).unlink()
    teacher = Teacher()
    cache(str(root), GROWN["views"], teacher)
    assert teacher.forwards == missing(GROWN["views"], SMALL)
    with pytest.raises(FingerprintMismatch, match=r"dataset\.manifest_digest"):
        cache(str(root), GROWN["videos"])
    cache(str(root), SMALL)  # says which videos it was made from, for those who come later
    teacher = Teacher()
    cache(str(root), GROWN["videos"], teacher)
    assert teacher.forwards == missing(GROWN["videos"], SMALL)


def test_two_processes_make_one_store(tmp_path):
    root, grown = str(tmp_path / "store"), GROWN["both"]
    cache(root, SMALL)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        seals = [job.seal for job in pool.starmap(cache, [(root, grown)] * 2)]
    assert seals == [cache(str(tmp_path / "once"), grown).seal] * 2
    for home in list_generations(root):
        open_store(home).verify()


@given(turns=st.lists(st.integers(0, 1), min_size=2, max_size=8))
@settings(max_examples=10)
def test_two_configs_at_one_root_never_mix(tmp_path_factory, turns):
    root = str(tmp_path_factory.mktemp("root") / "store")
    jobs = [Writer(root, plan, Teacher()) for plan in (SMALL, replace(SMALL, seed=7))]
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
    assert open_store(root).seal == winner.seal is not None
    tables = [path for path in Path(root).rglob("*.parquet") if path.is_file()]
    found = {pq.read_schema(path).metadata[b"fingerprint"] for path in tables}
    assert found == {winner.plan.spec.fingerprint.encode()}
