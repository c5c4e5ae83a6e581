"""MLflow by its ids: a client, the experiment of a config, runs that are searched, curves.

Runs are named by ids and never by MLflow's "active" run, which is one for each thread and process.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import StorageUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow reads these when it is imported. At its own defaults one call to a server that is away
# takes four minutes; repeating is the outbox's business.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def connect(uri: str) -> MlflowClient:
    """Return a client of a server or of a database file, whose tables are made if need be."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if (database := database_file(uri)) is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(f".{database.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that make the tables at once collide
        return MlflowClient(uri)


def database_file(uri: str) -> Path | None:
    """Return the file of a ``sqlite:`` URI; None for a server."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:") else None


def experiment_name(config: ExperimentConfig) -> str:
    """Return the name under which the runs of a config stand."""
    return config.tracking.experiment or config.dataset.name


def experiment_id(client: MlflowClient, config: ExperimentConfig) -> str:
    """Return the id of a config's experiment, which is made if need be."""
    name = experiment_name(config)
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    database = database_file(config.tracking_uri)
    # MLflow would put the artifacts of a database below the folder that the job starts in.
    artifacts = str(database.parent / "mlartifacts" / name) if database else None
    return client.create_experiment(name, artifact_location=artifacts)


def newest_run(
    client: MlflowClient, experiment: str, stage: str, key: str, *, finished: bool = False
) -> Run | None:
    """Return the newest run of a stage and key; a finished one only if that is asked for."""
    where = f"tags.stage = '{stage}' AND tags.run.key = '{key}'"
    if not finished:
        where += " AND attributes.status != 'FINISHED'"
    runs = client.search_runs([experiment], where, max_results=1)  # the newest comes first
    return runs[0] if runs else None


def find_runs(uri: str, experiment: str, where: str = "") -> list[Run]:
    """Search an experiment, newest run first.

    Args:
        uri: of the tracking server or database.
        experiment: its name.
        where: MLflow's filter, such as ``dataset.digest = '...'``.

    """
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], where)) if found else []


def read_curves(uri: str, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Read the (step, value) points of a run's curves; a name that was never logged has none.

    Raises:
        StorageUnavailable: if there is no such run, or the server does not answer.

    """
    database = database_file(uri)
    if database and not database.exists():
        raise StorageUnavailable(f"there is no MLflow database {database}")
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    try:
        histories = {name: client.get_metric_history(run_id, name) for name in names}
    except MlflowException as error:
        raise StorageUnavailable(f"MLflow at {uri} has no run {run_id}: {error}") from error
    return {
        name: sorted({point.step: point.value for point in points}.items())
        for name, points in histories.items()
    }
