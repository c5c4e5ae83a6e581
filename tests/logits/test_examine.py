"""The doctor names what is wrong with a store that is sealed in good order, and only that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.logits.cells import Grid
from pipeline.logits.examine import Diagnosis, displaced, examine
from pipeline.logits.shards import encode_shard
from pipeline.logits.store import open_store
from pipeline.storage.files import readable_json, sha256_of
from pipeline.storage.sealed.store import JOURNAL_NAME, SEAL_NAME, FileEntry, Seal

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def root(sealed_store: str, tmp_path: Path) -> Path:
    """A copy of a sealed store with real views, that a test may change."""
    return Path(shutil.copytree(sealed_store, tmp_path / "store"))


@pytest.fixture
def diagnose(tiny_config: Any, dataset: Any) -> Callable[[Path], Diagnosis]:
    records, policy = dataset.manifest.records, tiny_config.views
    return lambda root: examine(open_store(str(root)), records, policy)


def forge(root: Path, changes: dict[int, Change], *, keep_journal: bool = False) -> None:
    """Change the grids of shards and seal the store anew, as a program with a bug would have."""
    store = open_store(str(root))
    content = {}
    for number in changes:
        values = {name: np.copy(value) for name, value in vars(store.read_shard(number)).items()}
        changes[number](values)
        values["sample_id"] = tuple(values["sample_id"].tolist())
        content |= encode_shard(store.spec, number, Grid(**values))
    for name, new in content.items():
        (root / name).write_bytes(new)
    files = [
        FileEntry(entry.name, len(content[entry.name]), sha256_of(content[entry.name]))
        if entry.name in content
        else entry
        for entry in store.seal.files
    ]
    seal = Seal(store.seal.fingerprint, tuple(files), store.seal.provenance)
    values = asdict(seal) | {"root_digest": seal.root_digest}
    (root / SEAL_NAME).write_bytes(readable_json(values))
    if not keep_journal:
        shutil.rmtree(root / JOURNAL_NAME)


def kinds(diagnosis: Diagnosis) -> set[str]:
    return {finding.kind for finding in diagnosis.findings}


def swap_rows(values: dict[str, Any]) -> None:
    for name in ("status", "logits", "logit_offset", "view_digest", "frame_crc"):
        values[name][[0, 1]] = values[name][[1, 0]]


def swap_logits(values: dict[str, Any]) -> None:
    for name in ("logits", "logit_offset"):
        values[name][[0, 1]] = values[name][[1, 0]]


def swap_views(values: dict[str, Any]) -> None:
    for name in ("logits", "logit_offset", "view_digest", "frame_crc"):
        values[name][0, [0, 1]] = values[name][0, [1, 0]]


def put_nan(values: dict[str, Any]) -> None:
    values["logits"][2, 1] = np.nan


def shift(values: dict[str, Any]) -> None:
    values["logits"][2, 1] -= 1


def repeat_logits(values: dict[str, Any]) -> None:
    for name in ("logits", "logit_offset"):
        values[name][3, 0] = values[name][2, 1]


def drop_cell(values: dict[str, Any]) -> None:
    for name in ("status", "logits", "logit_offset", "view_digest", "frame_crc"):
        values[name][1, 0] = 0


def relabel(values: dict[str, Any]) -> None:
    values["label"][0] = 1 - values["label"][0]


def test_silent_on_a_clean_store(root: Path, diagnose: Any) -> None:
    diagnosis = diagnose(root)
    assert not diagnosis.findings
    assert sum(shard.num_good for shard in diagnosis.shards) == 20 * 3 + 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (swap_rows, {"view"}),
        (swap_views, {"view"}),
        (put_nan, {"bad logits"}),
        (shift, {"bad logits"}),
        (repeat_logits, {"duplicate"}),
        (drop_cell, {"coverage"}),
        (relabel, {"manifest"}),
    ],
)
def test_names_what_a_bug_left(
    root: Path, diagnose: Any, change: Change, expected: set[str]
) -> None:
    forge(root, {1: change})
    diagnosis = diagnose(root)
    assert kinds(diagnosis) == expected
    assert {finding.where for finding in diagnosis.findings} == {"shard 1"}


@pytest.mark.parametrize("change", [swap_rows, swap_logits, swap_views, shift, drop_cell])
def test_the_journal_is_a_witness(root: Path, diagnose: Any, change: Change) -> None:
    forge(root, {1: change}, keep_journal=True)
    assert "journal" in kinds(diagnose(root))


def know_labels(values: dict[str, Any]) -> None:
    good = values["status"] == 1
    right = np.arange(2) == values["label"][:, None]  # (B, K)
    noise = np.random.default_rng(len(good)).uniform(1, 3, values["logits"].shape)
    values["logits"][:] = np.where(right[:, None], 0, -noise) * good[..., None]


def swap_classes(values: dict[str, Any]) -> None:
    know_labels(values)
    values["logits"][:] = values["logits"][..., ::-1]


def test_finds_the_shard_of_another_teacher(root: Path, diagnose: Any) -> None:
    forge(root, {0: know_labels, 1: know_labels, 2: know_labels})
    (root / JOURNAL_NAME).mkdir()
    assert not diagnose(root).findings
    forge(root, {1: swap_classes})
    (finding,) = diagnose(root).findings
    assert (finding.kind, finding.where) == ("labels", "shard 1")


def test_names_classes_that_changed_places(root: Path, diagnose: Any) -> None:
    forge(root, dict.fromkeys((0, 1, 2), swap_classes))
    (finding,) = diagnose(root).findings
    first, second = open_store(str(root)).spec.class_names
    assert (finding.kind, finding.where) == ("class order", first)
    assert f"is called {second} in 100%" in finding.message


def test_names_orphans(root: Path, diagnose: Any) -> None:
    (root / "notes.txt").write_text("mine")
    (finding,) = diagnose(root).findings
    assert (finding.kind, "notes.txt" in finding.message) == ("orphan", True)


NAMES = ["Archery", "Hammering", "HammerThrow", "Rowing"]
RIGHT = {(0, 0): 50, (1, 1): 40, (2, 2): 40, (3, 3): 50}
SWAPPED = RIGHT | {(1, 1): 1, (1, 2): 39, (2, 2): 0, (2, 1): 36, (2, 3): 4}
LOST = RIGHT | {(1, 1): 0, (1, 2): 40}


def displaced_classes(called: dict[tuple[int, int], int]) -> dict[str, str]:
    counts = np.zeros((4, 4), np.int64)
    for place, count in called.items():
        counts[place] = count
    return dict(displaced(counts, NAMES))


def test_two_classes_that_changed_places_are_one_finding() -> None:
    ((name, message),) = displaced_classes(SWAPPED).items()
    assert name == "Hammering"
    assert message.startswith(
        "is called HammerThrow in 98% of 40 cells, and the other way round in"
    )
    assert "row 2 seems to stand for Hammering" in message


def test_a_rotation_of_all_classes_is_found_though_nothing_is_right() -> None:
    found = displaced_classes({(label, (label + 1) % 4): 20 for label in range(4)})
    assert list(found) == NAMES
    assert "Archery in 100%" in found["Rowing"]
    assert all(f"row {(k + 1) % 4} seems to stand" in found[NAMES[k]] for k in range(4))


@pytest.mark.parametrize(
    ("called", "name", "message"),
    [
        (LOST, "Hammering", "So is HammerThrow, and which of them the head's row 2 stands for"),
        (LOST | {(2, 2): 0, (2, 3): 40}, "Hammering", "row 2 seems to stand for Hammering"),
        (LOST | {(2, 2): 0, (2, 0): 40}, "HammerThrow", "So is Archery, and which of them"),
        (SWAPPED | {(1, 2): 4, (1, 1): 0}, "HammerThrow", "row 1 seems to stand for HammerThrow"),
    ],
)
def test_a_row_of_the_head_is_proposed_for_one_class_only(
    called: Any, name: str, message: str
) -> None:
    found = displaced_classes(called)
    assert message in found[name]
    proposed = [text.split("seems")[0].split()[-1] for text in found.values() if "seems" in text]
    assert len(proposed) == len(set(proposed))


@pytest.mark.parametrize(
    "called",
    [
        RIGHT,
        {(label, 2): 40 for label in range(4)},  # never trained: one answer to all
        {(label, other): 10 for label in range(4) for other in range(4)},
        RIGHT | {(1, 1): 0, (1, 0): 14, (1, 2): 13, (1, 3): 13},  # hard, and like no other one
        RIGHT | {(1, 1): 0, (1, 2): 9},  # too few to tell
        {},
    ],
)
def test_other_stores_have_no_displaced_classes(called: dict[tuple[int, int], int]) -> None:
    assert not displaced_classes(called)
