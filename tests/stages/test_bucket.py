"""Every artefact in a bucket: the stages do there what they do on a disk, and outlive outages."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.manifest import read_manifest
from pipeline.frames.store import open_frame_store
from pipeline.logits.store import open_store
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.doctor import run_doctor
from pipeline.stages.index import plan_index, run_index_videos
from pipeline.stages.prepare import plan_frames, run_prepare_frames
from pipeline.stages.train import run_training
from pipeline.storage import files
from pipeline.storage.s3 import DEADLINE_VARIABLE
from pipeline.training.plan import plan_student
from tests.s3_server import FaultProxy, environment_for, make_bucket
from tests.stages.conftest import write_teacher

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

FRAMES = ["frames.source=prepared", "frames.num_candidates=8", "frames.short_side=48"]
UNITS = ["store.clips_per_unit=4"]
OUTAGE_SECONDS = "8"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, write_experiment: Any) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def words(s3_endpoint: str, videos: Path, path: Path) -> list[str]:
    """What moves the experiment into a bucket, to which its videos are copied."""
    bucket = make_bucket()
    for file in (file for file in videos.rglob("*") if file.is_file()):
        files.write_bytes(f"{bucket}/{file.relative_to(videos)}", file.read_bytes())
    return [
        *(*FRAMES, *UNITS),
        f"artefacts={bucket}/artefacts",
        f"dataset.root={bucket}",
        f"dataset.annotations={bucket}/splits",
        f"tracking.uri=sqlite:///{path.parent}/mlflow.db",
    ]


@pytest.fixture(scope="module")
def there(path: Path, words: list[str]) -> ExperimentConfig:
    return load_config(path, words)


@pytest.fixture(scope="module")
def here(path: Path) -> ExperimentConfig:
    return load_config(path, [*FRAMES, *UNITS])


@pytest.fixture(scope="module")
def result(there: ExperimentConfig, here: ExperimentConfig, private_ray: str) -> dict[str, Any]:
    """Every stage once in the bucket, and up to the store here; the result of the student."""
    for config in (there, here):
        write_teacher(config)
        run_index_videos(plan_index(config), private_ray)
        run_prepare_frames(plan_frames(config), private_ray)
        run_cache_teacher(plan_cache(config), private_ray)
    run_doctor(there, num_verified=4, json_uri=f"{there.artefacts}/report.json")
    return run_training(plan_student(there), private_ray)


def test_a_bucket_holds_what_a_disk_does(there: Any, here: Any, result: dict[str, Any]) -> None:
    manifests = [read_manifest(config.manifest_uri).digest for config in (there, here)]
    frames = [open_frame_store(config.frames_uri).root_digest for config in (there, here)]
    stores = [open_store(config.store_uri).root_digest for config in (there, here)]
    assert [len(set(digests)) for digests in (manifests, frames, stores)] == [1, 1, 1]
    names = set(files.list_tree(there.artefacts))
    assert {"report.json", f"runs/{result['name']}/best.safetensors"} <= names


@pytest.fixture
def proxy(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy before the server, for jobs that do not wait long."""
    monkeypatch.setenv(DEADLINE_VARIABLE, OUTAGE_SECONDS)
    proxy = FaultProxy(s3_endpoint)
    with environment_for(proxy.endpoint):
        yield proxy
    proxy.close()


def test_a_job_that_finds_no_server_says_so_in_time(
    path: Path, words: list[str], proxy: FaultProxy, run_job: Callable[..., str]
) -> None:
    proxy.inject("hang")
    started = time.monotonic()
    output = run_job("train_student", path, *words, code=4)
    assert time.monotonic() - started < float(OUTAGE_SECONDS) + 60  # imports take long
    assert output.startswith("StorageUnavailable: s3://")
    assert f"no success within {OUTAGE_SECONDS} s" in output
    assert "Traceback" not in output


def break_when(job: subprocess.Popen[str], ready: Callable[[], bool], proxy: FaultProxy) -> str:
    """Break storage for good as soon as ``ready`` says so; return the job's last words."""
    while not ready():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    proxy.inject("503")
    output, _ = job.communicate(timeout=200)
    proxy.inject("")
    assert job.returncode == 4, output
    return output


@pytest.mark.chaos
def test_a_cache_outlives_an_outage(
    path: Path, words: list[str], there: Any, result: Any, proxy: Any, start_job: Any, run_job: Any
) -> None:
    root = f"{there.artefacts}/other-store"
    job = start_job("cache_teacher", path, *words, f"store.uri={root}")
    output = break_when(job, lambda: len(files.list_names(f"{root}/journal")) > 1, proxy)
    assert f"StorageUnavailable: {there.artefacts}" in output
    assert "HTTP 503" in output
    assert not files.exists(f"{root}/seal.json")
    run_job("cache_teacher", path, *words, f"store.uri={root}")
    assert open_store(root).root_digest == open_store(there.store_uri).root_digest


@pytest.mark.chaos
def test_a_student_outlives_an_outage(
    path: Path, words: list[str], there: Any, result: Any, proxy: Any, start_job: Any, run_job: Any
) -> None:
    longer = [*words, "train.epochs=6"]
    runs = f"{there.artefacts}/runs"

    def has_checkpoint() -> bool:
        names = set(files.list_names(runs)) - {result["name"]}
        return any("epoch_0001" in files.list_names(f"{runs}/{name}") for name in names)

    output = break_when(start_job("train_student", path, *longer), has_checkpoint, proxy)
    assert "StorageUnavailable" in output
    run_job("train_student", path, *longer)
