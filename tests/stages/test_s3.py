"""Every artefact in a bucket: the stages do there what they do on a local disk, byte for byte."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.cache_stage import run_cache_teacher
from pipeline.cluster import LOCAL, ray_session
from pipeline.config import ExperimentConfig, load_config
from pipeline.doctor import run_doctor
from pipeline.frame_store.reader import open_frame_store
from pipeline.index_stage import run_index_videos
from pipeline.logit_store.reader import open_store
from pipeline.manifest import read_manifest
from pipeline.prepare_stage import run_prepare_frames
from pipeline.remote_storage import DEADLINE_VARIABLE
from pipeline.train_stage import run_train_student, run_train_teacher
from tests.s3_server import FaultProxy, make_bucket

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PREPARED = ["frames.source=prepared", "frames.num_candidates=8", "frames.short_side=48"]


@pytest.fixture(scope="module")
def remote_videos(s3_endpoint: str, videos: Path) -> str:
    """URI of a bucket with the videos and their lists."""
    root = make_bucket(s3_endpoint)
    for path in (path for path in videos.rglob("*") if path.is_file()):
        storage.write_bytes(f"{root}/{path.relative_to(videos)}", path.read_bytes())
    return root


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, write_experiment: Any) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def words(path: Path, remote_videos: str) -> list[str]:
    """What puts the experiment into the bucket."""
    return [
        f"artefacts={remote_videos}/artefacts",
        f"dataset.root={remote_videos}",
        f"dataset.annotations={remote_videos}/splits",
        f"tracking.uri=sqlite:///{path.parent}/mlflow.db",
    ]


@pytest.fixture(scope="module")
def there(path: Path, words: list[str]) -> ExperimentConfig:
    return load_config(path, [*words, *PREPARED])


@pytest.fixture(scope="module")
def cluster(there: ExperimentConfig) -> Iterator[None]:
    with ray_session(there, LOCAL, num_cpus=2):
        yield


@pytest.fixture(scope="module")
def result(there: ExperimentConfig, cluster: None) -> dict[str, Any]:
    """Every stage once, in the bucket; what the student's training returned."""
    run_index_videos(there, LOCAL)
    run_prepare_frames(there, LOCAL)
    run_train_teacher(there, LOCAL)
    run_cache_teacher(there, LOCAL)
    run_doctor(there, num_verified=4, json_uri=f"{there.artefacts}/report.json")
    return run_train_student(there, LOCAL)


def test_a_bucket_holds_what_a_disk_would(
    path: Path, there: ExperimentConfig, result: dict[str, Any]
) -> None:
    here = load_config(path, PREPARED)
    run_index_videos(here, LOCAL)
    frames = run_prepare_frames(here, LOCAL)
    storage.write_bytes(here.own_teacher_uri, storage.read_bytes(there.own_teacher_uri))
    store = run_cache_teacher(here, LOCAL)
    assert read_manifest(there.manifest_uri).digest == read_manifest(here.manifest_uri).digest
    assert open_frame_store(there.frames_uri).root_digest == frames.root_digest
    assert open_store(there.store_uri).root_digest == store.root_digest


def test_videos_are_read_from_a_bucket(
    path: Path, words: list[str], there: ExperimentConfig, result: dict[str, Any]
) -> None:
    weights = [f"teacher.weights={there.own_teacher_uri}"]
    remote = load_config(path, [*words, *weights, f"store.uri={there.artefacts}/of-videos"])
    local = load_config(path, [*weights, f"store.uri={path.parent}/of-videos"])
    run_index_videos(local, LOCAL)
    stores = [run_cache_teacher(config, LOCAL) for config in (remote, local)]
    assert stores[0].root_digest == stores[1].root_digest


def test_done_stays_done(
    there: ExperimentConfig, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = storage.list_tree(there.artefacts)
    assert {"report.json", "teacher/best.safetensors", "store/seal.json"} <= set(before)
    assert f"runs/{result['name']}/best.safetensors" in before
    run_cache_teacher(there, LOCAL)
    assert run_train_student(there, LOCAL) == result
    assert "trained already, nothing to do" in capsys.readouterr().out
    assert storage.list_tree(there.artefacts) == before
