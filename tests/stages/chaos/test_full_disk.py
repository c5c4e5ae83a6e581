"""A disk that is full, in each writer: said by name, nothing half-named, over with the space."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.logits.store import open_store
from pipeline.storage.files import list_tree
from tests.stages.chaos.conftest import NUM_STEPS, NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.test_named_steps import MAX_REDONE, WRITE
from tests.stages.chaos.trials import Step, Trial, check_tracked_once, last_weights

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.getuid() != 0, reason="mounts a small disk"),
]

DISK_BYTES = 16_000_000  # three checkpoints and the weights have room
CACHE_WRITERS = [
    Step("the identity", "pipeline.storage.sealed.store:open_for_writing"),
    Step("a fragment", "pipeline.stages.cache_steps:journal_unit", nth=4),
    Step("a shard", "pipeline.logits.store:gather_shard", nth=2),
    Step("the seal", "pipeline.storage.sealed.store:write_seal"),
]
TRAIN_WRITERS = [
    Step("a checkpoint", WRITE, nth=2),
    Step("the weights", "pipeline.results.training_run:publish_result"),
]


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put a folder, with what is in it, on a disk of its own."""
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    size = f"size={DISK_BYTES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        for name, data in content.items():
            (folder / name).write_bytes(data)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    ballast = folder / "ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], capture_output=True)
    assert shutil.disk_usage(folder).free == 0
    try:
        yield
    finally:
        ballast.unlink()


def fill_at(trial: Trial, step: Step) -> Any:
    """Fill the disk when the job comes to a step, and let it run into that."""
    folder = trial.folder / "artefacts"
    job = trial.stop_at(step)
    before = set(list_tree(str(folder)))
    with filled(folder):
        job.go_on()
        assert job.wait() == 4, job.output
        assert "StorageUnavailable: " in job.output
        assert "No space left on device" in job.output
        assert str(folder) in job.output
        new = set(list_tree(str(folder))) - before - {"ballast"}
    assert not [name for name in new if name.endswith((".tmp", "seal.json", "result.json"))]
    return job


@pytest.mark.parametrize("step", CACHE_WRITERS, ids=lambda step: step.name.replace(" ", "-"))
def test_a_cache(step: Step, tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    with small_disk(trial.folder / "artefacts"):
        job = fill_at(trial, step)
        kept = trial.fragments()
        resumed = trial.finish()
        assert open_store(trial.store).root_digest == straight.root_digest
        open_store(trial.store).verify()
    assert resumed.num_calls == NUM_UNITS - len(kept)
    check_tracked_once(trial.database)
    FIGURES.add(f"disk full, {step.name}", job.num_calls - len(kept), f"{NUM_UNITS} units")


@pytest.mark.parametrize("step", TRAIN_WRITERS, ids=lambda step: step.name.replace(" ", "-"))
def test_a_student(
    step: Step, tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    with small_disk(trial.folder / "artefacts"):
        job = fill_at(trial, step)
        resumed = trial.finish()
        assert last_weights(trial.folder) == straight_weights
    redone = job.num_calls + resumed.num_calls - NUM_STEPS
    assert redone <= MAX_REDONE
    check_tracked_once(trial.database)
    FIGURES.add(f"disk full, {step.name}", redone, f"{NUM_STEPS} steps")
