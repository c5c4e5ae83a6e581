"""Leaks: nothing that a process holds grows over many starts and ends."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import VideoDecodeError
from pipeline.logits.mirror import open_mirror
from pipeline.logits.store import open_store
from pipeline.views.decoder import DecodeProcess
from pipeline.views.loader import ClipLoader, ClipRequest
from pipeline.views.view import Box, View

NUM_LOOPS = [4, pytest.param(100, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])]
LIMITS = VideoLimits()
pytestmark = pytest.mark.timeout(600)  # a busy machine takes a while to start the processes


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this test's temporary files go, and those of no other process."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def holdings(temporary_folder: Path) -> dict[str, int]:
    """Count what this process holds."""
    gc.collect()
    mapped = Path("/proc/self/maps").read_text().splitlines()
    return {
        "file descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": sum(len(task.read_text().split()) for task in _tasks("children")),
        "temporary files": len(list(temporary_folder.rglob("*"))),
        "mapped files": len({line.split()[-1] for line in mapped if "/" in line}),
        "threads": len(_tasks("stat")),
    }


def _tasks(name: str) -> list[Path]:
    """Return a file of each thread."""
    return list(Path("/proc/self/task").glob(f"*/{name}"))


def shared_memory() -> int:
    """Count files of the whole machine; others may add a few while we look."""
    return len(list(Path("/dev/shm").iterdir()))


def assert_nothing_grows(act: Callable[[], object], folder: Path, num_loops: int) -> None:
    act()  # the first time may load libraries and fill caches
    before, shared = holdings(folder), [shared_memory()]
    for _ in range(num_loops):
        act()
        shared.append(shared_memory())
    after = holdings(folder)  # what ends meanwhile, such as a thread of an earlier test, is no leak
    assert not {name: count for name, count in after.items() if count > before[name]}
    assert any(now <= last for last, now in pairwise(shared))  # a leak would grow in every loop


@pytest.mark.parametrize("num_loops", NUM_LOOPS)
def test_decode_processes(num_loops, dataset, temporary_folder):
    record = dataset.manifest.records[0]
    view = View(0, (0, 3), Box(0, 0, record.height, record.width), flip=False)
    missing = VideoRecord("no", "/no.avi", 0, "train")

    def act() -> None:
        decoder = DecodeProcess()
        decoder.clips(record, [view], LIMITS, side=32)
        with pytest.raises(VideoDecodeError):
            decoder.probe(missing, LIMITS)
        decoder.close()

    assert_nothing_grows(act, temporary_folder, num_loops)


@pytest.mark.parametrize("num_loops", NUM_LOOPS)
def test_stores_and_mirrors(num_loops, sealed_store, tmp_path, temporary_folder):
    def act() -> None:
        store = open_store(sealed_store)
        store.verify()
        store.read_shard(0)
        open_mirror(sealed_store, tmp_path / "mirrors").teacher_logits([0], [0])

    assert_nothing_grows(act, temporary_folder, num_loops)


@pytest.mark.parametrize("num_loops", NUM_LOOPS)
def test_loaders_that_are_left_early(num_loops, dataset, temporary_folder):
    requests = [
        [ClipRequest(row, record, View(0, (0,), Box(0, 0, 8, 8), flip=False))]
        for row, record in enumerate(dataset.manifest.records[:6])
    ]

    def act() -> None:
        with ClipLoader(1, LIMITS, side=32) as loader:
            next(loader.batches(requests))

    assert_nothing_grows(act, temporary_folder, num_loops)
