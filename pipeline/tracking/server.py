"""Calls to MLflow: a client, the experiment of a config, runs, curves, registered networks.

Runs are named by ids and never by MLflow's "active" run, which differs by thread and process.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import StorageUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, RunInfo

    from dvflnet.deployed import ClipClassifier

# MLflow reads these when it is imported. At its own defaults one call to a server that is away
# takes four minutes; repeating is the outbox's business.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
CANDIDATE = "candidate"  # alias of the newest registered version: nobody has approved it yet
# Error codes that the same request would get again. (RESOURCE_ALREADY_EXISTS would not: one of two
# jobs that make an experiment at once gets it, and finds the experiment at its next attempt.)
REFUSED = {"BAD_REQUEST", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE"}
REFUSED |= {"INVALID_STATE", "PERMISSION_DENIED", "UNAUTHENTICATED"}


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
        with closing(sqlite3.connect(database)) as probe:  # MLflow would try for an hour
            probe.execute("BEGIN IMMEDIATE")
        # By this name MLflow does not make the folder of the quoted path beside the right one.
        return MlflowClient(uri.replace("sqlite:", "sqlite+pysqlite:", 1))


def database_file(uri: str) -> Path | None:
    """Return the file of a ``sqlite:`` URI, whose path is quoted; None for a server."""
    return Path(unquote(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:") else None


def shown_by(uri: str) -> str:
    """Return the URL at which MLflow answers; for a database file the command that shows it."""
    if database_file(uri):
        return f"mlflow server --backend-store-uri {shlex.quote(uri)}"
    return uri.rstrip("/")


def is_refusal(error: Exception) -> bool:
    """Return whether the same call would fail again; False if a server was only away."""
    if isinstance(error, OSError | sqlite3.DatabaseError):  # of a database and its folder
        lasting = not isinstance(error, ConnectionError | TimeoutError)
        return lasting and not any(word in str(error) for word in ("locked", "full", "No space"))
    return getattr(error, "error_code", "") in REFUSED or "database schema" in str(error)


def experiment_name(config: ExperimentConfig) -> str:
    return config.tracking.experiment or config.dataset.name


def experiment_id(client: MlflowClient, config: ExperimentConfig) -> str:
    name = experiment_name(config)
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    database = database_file(config.tracking_uri)
    # MLflow would put the artifacts of a database below the folder that the job starts in.
    artifacts = (database.absolute().parent / "mlartifacts" / name).as_uri() if database else None
    return client.create_experiment(name, artifact_location=artifacts)


def newest_run(
    client: MlflowClient, experiment: str, stage: str, key: str, *, finished: bool = False
) -> Run | None:
    where = f"tags.stage = '{stage}' AND tags.run.key = '{key}'"
    if not finished:
        where += " AND attributes.status != 'FINISHED'"
    runs = client.search_runs([experiment], where, max_results=1)  # the newest comes first
    return runs[0] if runs else None


def read_curves(uri: str, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Read the (step, value) points of a run's curves; a name that was never logged has none."""
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


def log_model(
    client: MlflowClient,
    run: RunInfo,
    model: ClipClassifier,
    clip_shape: tuple[int, int, int, int],
    metadata: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> None:
    """Make a network with its preprocessing a logged model of a run, as an exported program.

    That takes four times as long as a pickle, once a run. But opening a pickle runs whatever is in
    it, and needs this package.
    """
    import numpy as np
    import torch
    from mlflow import pytorch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    any_batch = -1
    clips = TensorSpec(np.dtype(np.uint8), (any_batch, *clip_shape), "clip")
    shape = (any_batch, len(metadata["class_names"]))
    logits = TensorSpec(np.dtype(np.float32), shape, "logits")
    with tempfile.TemporaryDirectory(prefix="mlflow-model-") as folder:
        path = f"{folder}/model"
        pytorch.save_model(
            model,
            path,
            signature=ModelSignature(inputs=Schema([clips]), outputs=Schema([logits])),
            # A tensor, not an array, which would be written out as 50 MB of JSON. Two clips,
            # because a batch of one is exported as one for ever.
            input_example=torch.zeros(2, *clip_shape, dtype=torch.uint8),
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__}"],  # inferring them starts a process
            metadata=dict(metadata),
        )
        name = re.sub(r"""[/:.%"']""", "_", metadata["run"])  # MLflow refuses these
        logged = client.create_logged_model(run.experiment_id, name, run.run_id)
        client.log_model_artifacts(logged.model_id, path)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    for name, value in metrics.items():
        client.log_metric(run.run_id, name, value, model_id=logged.model_id)


def register_model(uri: str, run_id: str, name: str) -> str:
    """Make a run's model a version of a registered one; return the version.

    ``models:/NAME@candidate`` names it until a later one takes the alias. The same run twice is one
    version. StorageUnavailable if MLflow does not answer, or the run's model never reached it.
    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    try:
        outputs = client.get_run(run_id).outputs
        if not outputs or not outputs.model_outputs:
            raise StorageUnavailable(
                f"run {run_id} has no model in MLflow at {uri}: it never arrived. Train again with "
                "MLflow there, or use the weights file of the run."
            )
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        model = client.get_logged_model(outputs.model_outputs[-1].model_id)
        found = client.search_model_versions(f"name = '{name}' AND run_id = '{run_id}'")
        if found:
            version = found[0]
        else:  # from a place, not from models:/<id>: that is looked up on the process's own server
            place = model.artifact_location
            version = client.create_model_version(name, place, run_id, model_id=model.model_id)
        client.set_registered_model_alias(name, CANDIDATE, version.version)
    except MlflowException as error:
        raise StorageUnavailable(f"MLflow at {uri} refuses to register {name}: {error}") from error
    return str(version.version)
