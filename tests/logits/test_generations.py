"""A store grows by exactly the forward passes that are missing, and into the store it would have
been at once."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import FingerprintMismatch, Status, StoreCorrupt, StoreIncomplete
from pipeline.logits.generations import VIDEOS_NAME, find_generation, list_generations
from pipeline.logits.mirror import open_mirror
from pipeline.logits.store import open_store
from pipeline.storage.sealed.seal import read_verified
from pipeline.storage.sealed.store import JOURNAL_NAME, finished_units
from tests.logits.imaginary import Plan, Teacher, Video, Writer, cache

TRAIN = tuple(Video(f"v{n}", good=n != 4) for n in range(9))
VAL = tuple(Video(f"w{n}", split="val") for n in range(3))
NEW = (Video("v00"), Video("v55"), Video("w00", split="val"))  # they sort between the others
SMALL = Plan(TRAIN + VAL, num_views=1)
GROWN = {
    "views": replace(SMALL, num_views=3),
    "videos": replace(SMALL, videos=TRAIN + VAL + NEW),
    "both": replace(SMALL, videos=NEW + TRAIN + VAL, num_views=2),
}


@pytest.fixture
def root() -> Iterator[str]:
    """In memory, which is quicker than a disk; kills and damage are tried on disk."""
    uri = f"memory://{uuid.uuid4().hex}"
    yield uri
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.rm(path, recursive=True)


@pytest.fixture(params=["parquet", "zarr"])
def small(request: pytest.FixtureRequest) -> Plan:
    return replace(SMALL, format=request.param)


@pytest.fixture(params=GROWN)
def grown(request: pytest.FixtureRequest, small: Plan) -> Plan:
    return replace(GROWN[request.param], format=small.format)


def missing(plan: Plan, *held: Plan) -> Counter[object]:
    """Every cell that a plan wants and that none of the others holds, once."""
    return Counter(set(plan.cells.values()) - {c for other in held for c in other.cells.values()})


def test_exactly_the_missing_cells_are_run(root, small, grown):
    before = cache(root, small)
    content = {entry: read_verified(root, entry) for entry in before.seal.files}
    teacher = Teacher()
    after = cache(root, grown, teacher)
    assert teacher.forwards == missing(grown, small)
    assert after.home != root
    assert {entry: read_verified(root, entry) for entry in before.seal.files} == content
    assert open_store(root).root_digest == before.seal.root_digest


def test_a_grown_store_is_the_one_made_at_once(root, small, grown, tmp_path):
    cache(root, small)
    once = cache(str(tmp_path / "once"), grown)
    assert cache(root, grown).seal == once.seal
    open_store(find_generation(root, grown.spec.identity)).verify()


def test_the_way_does_not_matter(root, tmp_path):
    for plan in (SMALL, GROWN["views"], GROWN["both"], GROWN["videos"]):
        digest = cache(root, plan).seal.root_digest
        assert (
            digest
            == cache(str(tmp_path / str(plan.num_views * len(plan.videos))), plan).seal.root_digest
        )
    teacher = Teacher()
    cache(root, replace(GROWN["videos"], num_views=3), teacher)
    assert teacher.forwards == missing(replace(GROWN["videos"], num_views=3), *GROWN.values())


def test_a_config_names_its_generation_for_ever(root, grown, small, tmp_path):
    first, second = cache(root, small), cache(root, grown)
    for plan, job in ((small, first), (grown, second)):
        home = find_generation(root, plan.spec.identity)
        assert open_mirror(home, tmp_path).root_digest == job.seal.root_digest
        teacher = Teacher()
        assert cache(root, plan, teacher).seal == job.seal
        assert not teacher.forwards
    with pytest.raises(FingerprintMismatch, match=r"views\.num_views: store 1, config 4"):
        find_generation(root, replace(small, num_views=4).spec.identity)


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


def test_a_first_generation_inherits_from_those_that_overtook_it(root):
    for step in Writer(root, SMALL, Teacher()).steps():
        if step == "record":
            break
    cache(root, GROWN["both"])
    teacher = Teacher()
    cache(root, SMALL, teacher)
    assert not teacher.forwards


@pytest.mark.parametrize("kill_at", range(2, 22, 4))
def test_killed_while_growing(local_root, kill_at, tmp_path):
    root, plan, teacher = local_root, GROWN["both"], Teacher()
    cache(root, SMALL)
    for number, _ in enumerate(Writer(root, plan, teacher).steps()):
        if number == kill_at:
            break
    assert cache(root, plan, teacher).seal == cache(str(tmp_path / "once"), plan).seal
    assert teacher.forwards == missing(plan, SMALL)


def test_who_goes_on_inherits_what_others_hold_by_now(root):
    cache(root, SMALL)
    job = Writer(root, GROWN["both"], Teacher())
    for step in job.steps():
        if step == "unit":
            break
    cache(root, GROWN["views"])
    cache(root, GROWN["both"], job.teacher)
    assert set(job.teacher.forwards.values()) == {1}
    assert job.teacher.forwards < missing(GROWN["both"], SMALL)


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
    assert open_store(job.home).read_all().label[2] == 3


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


@pytest.mark.parametrize("sealed", [True, False])
def test_damage_is_not_inherited(tmp_path, sealed):
    root = tmp_path / "store"
    cache(str(root), SMALL)
    if not sealed:
        (root / "seal.json").unlink()
    folder = "logits.parquet" if sealed else JOURNAL_NAME
    for path in (root / folder).iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 4
        path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=folder):
        cache(str(root), GROWN["views"])
    content = (root / VIDEOS_NAME).read_bytes()
    (root / VIDEOS_NAME).write_bytes(content.replace(b"v3", b"v2"))
    with pytest.raises(StoreCorrupt, match=VIDEOS_NAME):
        cache(str(root), GROWN["videos"])


def test_an_inherited_file_that_is_damaged_is_refused(tmp_path):
    root = str(tmp_path / "store")
    cache(root, SMALL)
    job = Writer(root, GROWN["views"], Teacher())
    for step in job.steps():
        if step == "unit":
            break
    path = next(Path(job.home, JOURNAL_NAME).glob("inherited-*"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreCorrupt, match="inherited-"):
        cache(root, GROWN["views"])
