"""A small generated data set and an experiment on it, for the tests that run whole stages."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.annotations import read_annotations
from pipeline.dataset.generated.videos import generate_videos
from pipeline.dataset.manifest import build_manifest, located, write_manifest
from pipeline.frames.video import probe_video
from pipeline.networks.build import build_network
from pipeline.networks.weight_files import write_weights
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.cluster import LOCAL, ray_session
from pipeline.storage.locks import JOB_VARIABLE

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
                "class_names": "as_dataset",
                "optim": OPTIM,
                "train": {"epochs": 1, "batch_size": 8, "num_loaders": 1},
            },
            "student": NETWORK,
            "store": {"clips_per_unit": 8, "units_per_shard": 2},
            "loss": {"distill_weight": 0.5, "temperature": 2.0},
            "optim": OPTIM,
            "train": {"epochs": 2, "batch_size": 4, "audit_rate": 1.0, "num_loaders": 1},
            "cluster": {"worker_threads": 1, "object_store_bytes": 100_000_000},
            "tracking": {"log_model": False},
        }
        path = folder / "experiment.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def index(config: ExperimentConfig) -> None:
    """Write the manifest, as the stage does, but without Ray."""
    annotated, root = read_annotations(config.dataset), config.dataset.root
    records = [
        replace(probe_video(there, config.dataset.limits), uri=record.uri)
        for record, there in zip(annotated.records, located(annotated.records, root), strict=True)
    ]
    manifest = build_manifest(config.dataset.name, annotated.class_names, records)
    write_manifest(manifest, config.manifest_uri, root=root)


def write_teacher(config: ExperimentConfig, uri: str | None = None) -> None:
    """Write the weights of a teacher that was never trained."""
    torch.manual_seed(0)
    network = build_network(
        config.teacher, num_classes=config.dataset.num_classes, num_frames=config.clip.num_frames
    )
    write_weights(uri or config.own_teacher_uri, network.state_dict(), {})


@pytest.fixture(scope="session")
def private_ray(
    write_experiment: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
    s3_endpoint: str,
) -> Iterator[str]:
    """One private Ray for all tests that run stages in this process; yields its address.

    Its workers inherit the environment, and so the way to the test's S3 server.
    """
    os.environ[JOB_VARIABLE] = "the tests' job"
    config = load_config(write_experiment(tmp_path_factory.mktemp("ray")))
    with ray_session(config, LOCAL, num_cpus=2):
        yield LOCAL


@pytest.fixture(scope="session")
def cached(
    write_experiment: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
    private_ray: str,
) -> Path:
    """An experiment that is indexed and cached, with a teacher that was never trained."""
    path = write_experiment(tmp_path_factory.mktemp("cached"))
    config = load_config(path)
    index(config)
    write_teacher(config)
    run_cache_teacher(plan_cache(config), private_ray)
    return path


@pytest.fixture(scope="session")
def start_job() -> Callable[..., subprocess.Popen[str]]:
    """Start a job as a user would, in a process group of its own."""
    # Tests that run in the background of a shell ignore Ctrl-C, and so would their jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
    """Run a job to its end and return what it printed; its exit code must be ``code``."""

    def run(name: str, experiment: Path, *words: str, code: int = 0) -> str:
        job = start_job(name, experiment, *words)
        output, _ = job.communicate(timeout=400)
        assert job.returncode == code, output
        return output

    return run
