"""Killed jobs: what the next start makes is what an undisturbed run makes, bit for bit."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.logits.store import open_store
from pipeline.networks.weight_files import read_weights
from pipeline.stages.train import run_training
from pipeline.storage.files import list_names, read_bytes, read_record
from pipeline.storage.sealed.store import finished_units
from pipeline.training.plan import plan_student

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1200)]

NUM_WORKERS = (1, 2)


def kill_when(job: Any, ready: Any) -> None:
    """End a job and all its processes by SIGKILL, as soon as ``ready`` says so."""
    deadline = time.monotonic() + 300
    while not ready():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()


def test_a_killed_cache_ends_in_the_same_store(
    cached: Path, tmp_path: Path, start_job: Any, run_job: Any
) -> None:
    undisturbed = open_store(load_config(cached).store_uri)
    root = f"{tmp_path}/store"
    words = [f"store.uri={root}", "store.clips_per_unit=8"]
    job = start_job("cache_teacher", cached, *words, "cluster.num_decoders=1")
    kill_when(job, lambda: len(finished_units(root)) >= 2)
    survived = {
        name: read_bytes(f"{root}/journal/{name}") for name in list_names(f"{root}/journal")
    }
    assert "seal.json" not in list_names(root)
    run_job("cache_teacher", cached, *words, "cluster.num_decoders=3", "cluster.num_teachers=2")
    assert open_store(root).root_digest == undisturbed.root_digest
    for name, content in survived.items():
        if not name.startswith("."):
            assert read_bytes(f"{root}/journal/{name}") == content


def words_for(cached: Path, num_workers: int) -> list[str]:
    """Tell a student to learn from the store in batches of the same four clips."""
    config = load_config(cached)
    return [
        f"store.uri={config.store_uri}",
        f"teacher.weights={config.teacher_weights_uri}",
        f"cluster.num_workers={num_workers}",
        f"train.batch_size={4 // num_workers}",
        "train.epochs=3",
    ]


@pytest.fixture(scope="module")
def straight(
    cached: Path, tmp_path_factory: pytest.TempPathFactory, private_ray: str
) -> dict[int, Path]:
    """Undisturbed students, by their number of workers."""
    folders = {}
    for num_workers in NUM_WORKERS:
        folder = _same_manifest(cached, tmp_path_factory.mktemp("straight") / "artefacts")
        words = [*words_for(cached, num_workers), f"artefacts={folder}"]
        run_training(plan_student(load_config(cached, words)), private_ray)
        folders[num_workers] = folder
    return folders


@pytest.mark.parametrize("num_workers", [pytest.param(1, marks=pytest.mark.chaos), 2])
def test_a_killed_student_ends_with_the_same_weights(
    cached: Path, straight: Any, tmp_path: Path, start_job: Any, run_job: Any, num_workers: int
) -> None:
    killed = _same_manifest(cached, tmp_path / "killed")
    words = [*words_for(cached, num_workers), f"artefacts={killed}"]
    job = start_job("train_student", cached, *words)
    kill_when(job, lambda: _reported_epochs(killed) >= 1)
    run_job("train_student", cached, *words)
    assert _last_weights(killed) == _last_weights(straight[num_workers])


def test_one_and_two_workers_agree_to_rounding(straight: dict[int, Path]) -> None:
    """Equal global batches are equal training."""
    one, two = (_result(straight[number])["metrics"]["last/nll"] for number in NUM_WORKERS)
    assert one == pytest.approx(two, abs=1e-4)


def _same_manifest(cached: Path, folder: Path) -> Path:
    folder.mkdir()
    (folder / "manifest.parquet").write_bytes(Path(load_config(cached).manifest_uri).read_bytes())
    return folder


def _reported_epochs(folder: Path) -> int:
    return len(list(folder.glob("runs/*/epoch_*/checkpoint.json")))


def _run_folder(folder: Path) -> Path:
    return next((folder / "runs").iterdir())


def _result(folder: Path) -> Any:
    return read_record(str(_run_folder(folder) / "result.json"))


def _last_weights(folder: Path) -> str:
    return read_weights(str(_run_folder(folder) / "last.safetensors")).metadata["digest"]
