"""A database with MLflow's tables in it, and the run of a student that the tests log to."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import DatasetConfig, TrackingConfig
from pipeline.tracking.run import TrackedRun, open_run
from pipeline.tracking.server import connect
from tests.mlflow_server import find_runs

EXPERIMENT = "shapes"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with tables and nothing in them; making them takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """A database in a folder whose name must be quoted in a URI."""
    folder = tmp_path / "50%20 of #1?"
    folder.mkdir()
    return Path(shutil.copy(empty_database, folder / "mlflow.db"))


@pytest.fixture
def uri(database: Path) -> str:
    return config_for(None, artefacts=str(database.parent / "artefacts")).tracking_uri


def config_for(
    uri: str | None, *, artefacts: str = "/artefacts", **tracking: str
) -> ExperimentConfig:
    dataset = DatasetConfig(name=EXPERIMENT, root="/videos", layout="folders", num_classes=4)
    return ExperimentConfig(
        artefacts=artefacts, dataset=dataset, tracking=TrackingConfig(uri=uri, **tracking)
    )


def opened(
    uri: str,
    tags: Mapping[str, str] | None = None,
    *,
    reopen_finished: bool = False,
    **tracking: str,
) -> TrackedRun:
    return open_run(
        config_for(uri, **tracking),
        stage="train_student",
        name="nano",
        key="5e1f",
        sections=("loss", "student"),
        tags=tags or {},
        reopen_finished=reopen_finished,
    )


def only_run(uri: str) -> Any:
    (run,) = find_runs(uri, EXPERIMENT)
    return run


def steps_of(uri: str, key: str = "train/loss") -> list[int]:
    return [point.step for point in connect(uri).get_metric_history(only_run(uri).info.run_id, key)]
