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
from pipeline.logits.examine import Diagnosis, examine
from pipeline.logits.store import backend_of, open_store
from pipeline.storage.files import readable_json, sha256_of
from pipeline.storage.sealed.seal import SEAL_NAME, FileEntry, build_seal
from pipeline.storage.sealed.store import JOURNAL_NAME

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
    backend, content = backend_of(store.spec), {}
    for number in changes:
        values = {name: np.copy(value) for name, value in vars(store.read_shard(number)).items()}
        changes[number](values)
        values["sample_id"] = tuple(values["sample_id"].tolist())
        content |= backend.encode_shard(store.spec, number, Grid(**values))
    for name, new in content.items():
        (root / name).write_bytes(new)
    files = [
        FileEntry(entry.name, len(content[entry.name]), sha256_of(content[entry.name]))
        if entry.name in content
        else entry
        for entry in store.seal.files
    ]
    seal = build_seal(store.seal.fingerprint, files, store.seal.provenance)
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
    for _ in range(20):
        diagnosis = diagnose(root)
        assert diagnosis.healthy, diagnosis.findings
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


def test_finds_the_shard_of_another_teacher(root: Path, diagnose: Any) -> None:
    def know_labels(values: dict[str, Any]) -> None:
        good = values["status"] == 1
        right = np.arange(2) == values["label"][:, None]  # (B, K)
        noise = np.random.default_rng(len(good)).uniform(1, 3, values["logits"].shape)
        values["logits"][:] = np.where(right[:, None], 0, -noise) * good[..., None]

    def know_nothing(values: dict[str, Any]) -> None:
        know_labels(values)
        values["logits"][:] = values["logits"][..., ::-1]

    forge(root, {0: know_labels, 1: know_labels, 2: know_labels})
    (root / JOURNAL_NAME).mkdir()
    assert diagnose(root).healthy
    forge(root, {1: know_nothing})  # the other shards hold one class each
    diagnosis = diagnose(root)
    assert kinds(diagnosis) == {"labels"}
    assert diagnosis.findings[0].where == "shard 1"


def test_names_classes_that_changed_places(root: Path, diagnose: Any) -> None:
    def swap_classes(values: dict[str, Any]) -> None:
        good = values["status"] == 1
        wrong = np.arange(2) != values["label"][:, None]
        noise = np.random.default_rng(len(good)).uniform(1, 3, values["logits"].shape)
        values["logits"][:] = np.where(wrong[:, None], 0, -noise) * good[..., None]

    forge(root, dict.fromkeys((0, 1, 2), swap_classes))
    (finding,) = diagnose(root).findings
    first, second = open_store(str(root)).spec.class_names
    assert (finding.kind, finding.where) == ("class order", first)
    assert f"is called {second} in 100%" in finding.message


def test_finds_a_flipped_bit_in_any_file(root: Path, diagnose: Any) -> None:
    for entry in open_store(str(root)).seal.files:
        path = root / entry.name
        if path.name == "identity.json":
            continue  # without it there is no store to examine; open_store says so
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        findings = diagnose(root).findings
        assert any(path.name in found.where for found in findings), entry.name
        path.write_bytes(content)


def test_names_orphans(root: Path, diagnose: Any) -> None:
    (root / "notes.txt").write_text("mine")
    (finding,) = diagnose(root).findings
    assert (finding.kind, "notes.txt" in finding.message) == ("orphan", True)
