"""A small generated data set and an experiment on it, for the tests that run whole stages."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.dataset.generated.videos import generate_videos

ROOT = Path(__file__).parents[2]
NETWORK = {"variant": "nano", "embed_dim": 8, "depths": [1, 1, 1, 1]}
OPTIM = {"kind": "adamw", "lr": 1e-3, "lr_batch_size": None, "warmup_epochs": 0}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 24 videos in eight classes, a third of them of split val."""
    root = tmp_path_factory.mktemp("videos")
    generate_videos(root, seed=0, num_groups=3, num_val_groups=1, clips_per_group=1)
    return root


@pytest.fixture(scope="session")
def write_experiment(videos: Path) -> Callable[[Path], Path]:
    """Write the YAML of an experiment on those videos; all that it makes goes into its folder."""

    def write(folder: Path) -> Path:
        values = {
            "artefacts": str(folder / "artefacts"),
            "dataset": {
                "name": "tiny",
                "root": str(videos),
                "layout": "ucf101",
                "annotations": str(videos / "splits"),
                "num_classes": 8,
            },
            "clip": {"num_frames": 4, "side": 32},
            "views": {"num_views": 2, "min_area": 0.5},
            "teacher": {
                **NETWORK,
                "optim": OPTIM,
                "train": {"epochs": 1, "batch_size": 8, "num_loaders": 1},
            },
            "student": NETWORK,
            "store": {"clips_per_unit": 8, "units_per_shard": 2},
            "loss": {"distill_weight": 0.5, "temperature": 2.0},
            "optim": OPTIM,
            "train": {"epochs": 2, "batch_size": 4, "audit_rate": 1.0, "num_loaders": 1},
            "cluster": {"worker_threads": 1, "object_store_bytes": 100_000_000},
        }
        path = folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture(scope="session")
def start_job() -> Callable[..., subprocess.Popen[str]]:
    """Start a job as a user would, in a process group of its own."""

    def start(name: str, experiment: Path, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{name}.py"), str(experiment), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def run_job(start_job: Callable[..., subprocess.Popen[str]]) -> Callable[..., str]:
    """Run a job to its end and return what it printed; it must leave with ``code``."""

    def run(name: str, experiment: Path, *words: str, code: int = 0) -> str:
        job = start_job(name, experiment, *words)
        output, _ = job.communicate(timeout=400)
        assert job.returncode == code, output
        return output

    return run
