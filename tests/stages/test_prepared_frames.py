"""Prepared frames as the source of every later stage, on one private Ray."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.errors import FingerprintMismatch
from pipeline.frames.store import FrameStore, open_frame_store
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.cluster import LOCAL
from pipeline.stages.prepare import plan_frames, run_prepare_frames
from pipeline.stages.train import run_training
from pipeline.training.plan import plan_student, plan_teacher
from tests.mlflow_server import find_runs
from tests.stages.conftest import index, write_teacher

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FRAMES = ["frames.source=prepared", "frames.num_candidates=8", "frames.short_side=48"]
UNITS = ["frames.videos_per_unit=4", "frames.units_per_file=4"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, write_experiment: Any) -> Path:
    return write_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def config(path: Path) -> ExperimentConfig:
    return load_config(path, [*FRAMES, *UNITS])


@pytest.fixture(scope="module")
def store(config: ExperimentConfig, private_ray: str) -> FrameStore:
    index(config)
    return run_prepare_frames(plan_frames(config), LOCAL)


def test_done_stays_done_and_the_run_is_tracked(
    config: ExperimentConfig, store: FrameStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_prepare_frames(plan_frames(config), LOCAL).root_digest == store.root_digest
    assert "sealed, nothing to do" in capsys.readouterr().out
    (run,) = find_runs(config.tracking_uri, "tiny", "tags.stage = 'prepare_frames'")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["frames/videos"] == 24
    assert open_frame_store(config.frames_uri).manifest.digest == store.manifest.digest


def test_half_a_journal_ends_in_the_same_store(
    path: Path, config: ExperimentConfig, store: FrameStore, tmp_path: Path
) -> None:
    whole, half = Path(config.frames_uri), tmp_path / "frames"
    shutil.copytree(whole, half, ignore=shutil.ignore_patterns("seal.json", "*.arrow"))
    fragments = sorted((half / "journal").glob("*.parquet"))
    assert len(fragments) == 6
    for fragment in fragments[::2]:
        fragment.unlink()
    words = [*FRAMES, *UNITS, f"frames.uri={half}", "cluster.num_decoders=1"]
    again = run_prepare_frames(plan_frames(load_config(path, words)), LOCAL)
    assert again.root_digest == store.root_digest


def test_frames_of_another_quality_are_refused_by_name(path: Path, store: FrameStore) -> None:
    other = load_config(path, [*FRAMES, *UNITS, "frames.quality=80"])
    with pytest.raises(FingerprintMismatch, match=r"frames\.quality: store 90, config 80"):
        plan_teacher(other)
    with pytest.raises(FingerprintMismatch, match=r"frames\.quality: store 90, config 80"):
        run_prepare_frames(plan_frames(other), LOCAL)


def test_teacher_and_student_see_the_same_jpegs(
    path: Path, config: ExperimentConfig, store: FrameStore
) -> None:
    write_teacher(config)
    identity = run_cache_teacher(plan_cache(config), LOCAL).spec.identity
    assert identity["dataset"]["manifest_digest"] == store.manifest.digest
    assert identity["frames"] == config.frames.content
    one_epoch = load_config(path, [*FRAMES, *UNITS, "train.epochs=1"])
    run_training(plan_student(one_epoch), LOCAL)  # audits every clip
    with pytest.raises(FingerprintMismatch, match=r"frames\.quality: store 90, config nothing"):
        plan_student(load_config(path))
