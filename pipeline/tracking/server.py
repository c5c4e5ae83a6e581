"""MLflow, and the only module that knows it: one run a stage, in one experiment a data set.

Tracking never decides whether work lives: a run is opened and written to from a background thread,
see ``pipeline.tracking.outbox``. A job that is started again reopens its unfinished run and logs
no step twice.

Runs are named by ids and never by MLflow's idea of the "active" run, which is one for each thread
and process.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.config.load import flattened, resolved_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.errors import StorageUnavailable
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.provenance import commit_tags, job_name, ray_job_tags
from pipeline.tracking.run import RunHandle, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from dvflnet import VideoFocalNet

# Read by MLflow when it is imported. At its own defaults one call to a server that is away takes
# four minutes; repeating is the outbox's business.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
SERVER_SECONDS = 10.0  # to wait for a server at the start
DATABASE_SECONDS = 60.0  # and for a database file, whose tables are made on first use
LOOK_SECONDS = 10.0  # between two looks at the other runs
SILENT_LOOKS = 12  # at a running run whose numbers stand still, before its job counts as dead
MAX_PARAMS = 100  # in one request
MAX_PARAM_LENGTH = 6000
CANDIDATE = "candidate"  # alias of the newest registered version: nobody has approved it yet
DIGEST_LENGTH = 16  # of a data set: MLflow takes 36 characters, its table shows about 16

logger = logging.getLogger(__name__)


def open_run(
    config: ExperimentConfig,
    *,
    stage: str,
    name: str,
    key: str,
    sections: Sequence[str],
    tags: Mapping[str, str],
    parent: TrackedRun | None = None,
    reopen_finished: bool = False,
) -> TrackedRun:
    """Open the run of a stage: the unfinished one of the same stage and key, or a new one.

    Waits for the server, but not long; without it the run opens later.

    Args:
        config: the experiment.
        stage: what does the work, such as ``train_student``.
        name: what people read; it says what sets this run apart.
        key: says which work it is; a job that resumes comes with the same one.
        sections: of the config, whose settings decide this stage; they become the params.
        tags: facts of this stage, beside those that every run has.
        parent: the run that this one is shown below. It has waited for the server and watches the
            machine, so that this one does neither.
        reopen_finished: go on with the newest run even if it is finished: whoever ended it was
            killed before the work counted as done.

    """
    handle = _handle(config, stage, key)
    all_tags = {"stage": stage, "run.key": key, **_source_tags(), **tags}
    params = _params(config, sections)

    def connect() -> OpenRun:
        client = _client(handle.uri)
        experiment_id = _experiment_id(client, handle)
        if parent is not None:
            all_tags["mlflow.parentRunId"] = _id_of(parent)
        run = OpenRun(
            client,
            _newest(client, experiment_id, handle, finished=reopen_finished)
            or client.create_run(experiment_id, tags=all_tags, run_name=name),
        )
        run.describe(params, all_tags)
        run.log_artifact("config/resolved.yaml", resolved_yaml(config).encode())
        return run

    tracked = TrackedRun(handle, Outbox("MLflow", connect, OpenRun.check))
    if parent is None:
        tracked.wait_opened(DATABASE_SECONDS if _is_database(handle.uri) else SERVER_SECONDS)
        tracked.watch_system()
    return tracked


def is_unfinished(config: ExperimentConfig, *, stage: str, key: str) -> bool:
    """Return whether a job left its run unfinished; no, if MLflow does not answer in time.

    A stage whose work is done asks, because whoever did it may have been killed at its very end.
    """
    handle, found = _handle(config, stage, key), threading.Event()

    def look() -> None:
        client = _client(handle.uri)
        experiment = client.get_experiment_by_name(handle.experiment)
        if experiment and _newest(client, experiment.experiment_id, handle, finished=False):
            found.set()

    def try_to_look() -> None:
        try:
            look()
        except Exception as error:  # tracking never decides whether work lives
            logger.warning("MLflow at %s does not answer: %s", handle.uri, error)

    thread = threading.Thread(target=try_to_look, name="MLflow", daemon=True)
    thread.start()
    thread.join(SERVER_SECONDS)
    return found.is_set()


def find_runs(uri: str, experiment: str, where: str = "") -> list[Run]:
    """Search an experiment, newest run first.

    Args:
        uri: of the tracking server or database.
        experiment: its name.
        where: MLflow's filter, such as ``dataset.digest = '...'`` with a ``dataset_digest``.

    """
    client = _client(uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], where)) if found else []


def read_curves(uri: str, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
    """Read the (step, value) points of a run's curves; a name that was never logged has none.

    Raises:
        StorageUnavailable: if there is no such run, or the server does not answer.

    """
    if _is_database(uri) and not _database(uri).exists():
        raise StorageUnavailable(f"there is no MLflow database {_database(uri)}")
    client = _client(uri)
    from mlflow.exceptions import MlflowException

    try:
        histories = {name: client.get_metric_history(run_id, name) for name in names}
    except MlflowException as error:
        raise StorageUnavailable(f"MLflow at {uri} has no run {run_id}: {error}") from error
    return {
        name: sorted({point.step: point.value for point in points}.items())
        for name, points in histories.items()
    }


def register_model(uri: str, run_id: str, name: str) -> str:
    """Make a run's model a version of a registered one, with the alias ``candidate``.

    The same run twice is one version.

    Args:
        uri: of the tracking server or database.
        run_id: of a run that has logged a model.
        name: of the registered model; made if there is none.

    Returns:
        The version. ``models:/NAME@candidate`` names it, until a later one takes the alias.

    Raises:
        StorageUnavailable: if MLflow does not answer, or the run's model never reached it.

    """
    from mlflow.exceptions import MlflowException

    client = _client(uri)
    try:
        outputs = client.get_run(run_id).outputs
        models = outputs.model_outputs if outputs else []
        if not models:
            raise StorageUnavailable(
                f"run {run_id} has no model in MLflow at {uri}: it never arrived. Train again with "
                "MLflow there, or use the weights file of the run."
            )
        version = _version_of(client, name, run_id, models[-1].model_id)
        client.set_registered_model_alias(name, CANDIDATE, version)
    except MlflowException as error:
        raise StorageUnavailable(f"MLflow at {uri} refuses to register {name}: {error}") from error
    return version


def _version_of(client: MlflowClient, name: str, run_id: str, model_id: str) -> str:
    """Return the run's version of a registered model; make what is missing."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.run_id == run_id:
            return str(version.version)
    # Its place and not ``models:/<id>``, which would be looked up in another process-wide server.
    source = client.get_logged_model(model_id).artifact_location
    return str(client.create_model_version(name, source, run_id, model_id=model_id).version)


def dataset_digest(digest: str) -> str:
    """Shorten a digest to what is kept of it in MLflow."""
    return digest[:DIGEST_LENGTH]


def comparison_link(ui: str, runs: Iterable[Run]) -> str:
    """Return the page that lays runs side by side.

    Args:
        ui: where the pages are, see ``RunHandle.ui``.
        runs: from ``find_runs``.

    """
    infos = [run.info for run in runs]
    ids = json.dumps([info.run_id for info in infos], separators=(",", ":"))
    experiments = json.dumps(sorted({info.experiment_id for info in infos}), separators=(",", ":"))
    return f"{ui}/#/compare-runs?runs={ids}&experiments={experiments}"


class OpenRun:
    """A run on a server that answers. Every call may raise, and may be repeated."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self.run_id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self._client = client
        self._opened = time.monotonic()
        self._params = set(run.data.params)
        self._last_steps = {key: self._last_step_of(key) for key in run.data.metrics}
        seconds = (self._last_steps[key] for key in run.data.metrics if key.startswith("system/"))
        self._seconds_before = max(seconds, default=-1) + 1
        self._looked = self._opened
        self._others: dict[str, tuple[dict[str, float], int]] = {}  # last numbers, looks at them

    def check(self) -> None:
        """Raise if the server does not answer."""
        self._client.get_run(self.run_id)

    def seconds_open(self) -> int:
        """Return for how many seconds jobs have worked on this run.

        They grow whatever the clock does, or a curve over them would stand still for a day.
        """
        return self._seconds_before + int(time.monotonic() - self._opened)

    def describe(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Set status, tags and the params that are not there yet: MLflow refuses to change one."""
        from mlflow.entities import Param, RunTag

        self._client.update_run(self.run_id, status="RUNNING")
        self._client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in tags.items()])
        new = [Param(*param) for param in params.items() if param[0] not in self._params]
        for start in range(0, len(new), MAX_PARAMS):
            self._client.log_batch(self.run_id, params=new[start : start + MAX_PARAMS])

    def log_new_points(self, step: int, timestamp: int, values: Mapping[str, float]) -> None:
        """Log the values whose curves have not come to this step yet."""
        new = {key: value for key, value in values.items() if step > self._last_steps.get(key, -1)}
        self.log_points(step, timestamp, new)
        self._last_steps.update(dict.fromkeys(new, step))

    def log_points(self, step: int, timestamp: int, values: Mapping[str, float]) -> None:
        """Log values as they are."""
        from mlflow.entities import Metric

        points = [Metric(key, float(value), timestamp, step) for key, value in values.items()]
        self._client.log_batch(self.run_id, metrics=points)

    def log_artifact(self, path: str, content: bytes) -> None:
        """Write a file among the artifacts."""
        place = PurePosixPath(path)
        parent = str(place.parent) if place.parent.name else None  # a server refuses "."
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, place.name)
            local.write_bytes(content)
            self._client.log_artifact(self.run_id, str(local), parent)

    def log_dataset(self, name: str, digest: str, uri: str, context: str) -> None:
        """Name a data set as an input."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": uri})
        dataset = Dataset(name, dataset_digest(digest), source_type="uri", source=source)
        tag = InputTag("mlflow.data.context", context)
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def export_model(
        self,
        model: VideoFocalNet,
        path: Path,
        num_frames: int,
        side: int,
        metadata: Mapping[str, Any],
    ) -> None:
        """Write a network to a folder as an exported program.

        That takes four times as long as a pickle, once a run. But opening a pickle runs whatever is
        in it, and needs this package.
        """
        import torch
        from mlflow import pytorch

        pytorch.save_model(
            model,
            path,
            signature=_signature((num_frames, 3, side, side), model.num_classes),
            # A tensor, not an array, which would be written out as 50 MB of JSON. Two clips,
            # because a batch of one is exported as one for ever.
            input_example=torch.zeros(2, num_frames, 3, side, side),
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__}"],  # inferring them starts a process
            metadata=dict(metadata),
        )

    def upload_model(self, path: Path) -> None:
        """Make a logged model of an exported folder."""
        from mlflow.entities import LoggedModelOutput

        model = self._client.create_logged_model(self.experiment_id, "student", self.run_id)
        self._client.log_model_artifacts(model.model_id, str(path))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def terminate(self, status: str, timestamp: int) -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, status, timestamp)

    def end_silent_runs(self) -> None:
        """End the experiment's other runs whose jobs died; called again and again.

        A job that lives logs the state of its machine every few seconds. So a run whose numbers
        have not changed in several looks has nobody behind it; no clock is compared with another.
        Looks that waited for a server and come in a burst count once. A job that was only cut off
        says itself, at its end, how it ended.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        running = self._client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'")
        others, self._others = self._others, {}
        for run in running:
            numbers, looks = others.get(run.info.run_id, ({}, 0))
            looks = looks + 1 if run.data.metrics == numbers else 1
            if run.info.run_id == self.run_id:
                continue
            if looks > SILENT_LOOKS:
                self._client.set_terminated(run.info.run_id, "KILLED")
            else:
                self._others[run.info.run_id] = run.data.metrics, looks

    def system_monitor(self) -> Any:
        """Return MLflow's view of this machine."""
        from mlflow.system_metrics import system_metrics_monitor

        monitor: Any = system_metrics_monitor
        uri = self._client.tracking_uri  # or it makes an mlflow.db where the job was started
        return monitor.SystemMetricsMonitor(self.run_id, tracking_uri=uri)

    def _last_step_of(self, key: str) -> int:
        return max(point.step for point in self._client.get_metric_history(self.run_id, key))


def _handle(config: ExperimentConfig, stage: str, key: str) -> RunHandle:
    experiment = config.tracking.experiment or config.dataset.name
    return RunHandle(config.tracking_uri, experiment, stage, key)


def _client(uri: str) -> MlflowClient:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    if not _is_database(uri):
        return MlflowClient(uri)
    with _locked(_database(uri)):  # the first client makes the tables; two at once collide
        return MlflowClient(uri)


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    with open(database.with_name(f".{database.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with the file, or with the process
        yield


def _experiment_id(client: MlflowClient, handle: RunHandle) -> str:
    experiment = client.get_experiment_by_name(handle.experiment)
    if experiment:
        return str(experiment.experiment_id)
    artifacts = None
    if _is_database(handle.uri):  # MLflow would put them below the folder that the job starts in
        artifacts = str(_database(handle.uri).parent / "mlartifacts" / handle.experiment)
    return client.create_experiment(handle.experiment, artifact_location=artifacts)


def _newest(
    client: MlflowClient, experiment_id: str, handle: RunHandle, *, finished: bool
) -> Run | None:
    """Return the newest run of a stage and key; a finished one only if that is asked for."""
    where = f"tags.stage = '{handle.stage}' AND tags.run.key = '{handle.key}'"
    if not finished:
        where += " AND attributes.status != 'FINISHED'"
    runs = client.search_runs([experiment_id], where, max_results=1)  # the newest comes first
    return runs[0] if runs else None


def _id_of(parent: TrackedRun) -> str:
    if parent.run_id is None:
        raise ConnectionError("the parent's run is not open yet")  # and then this is tried again
    return parent.run_id


def _params(config: ExperimentConfig, sections: Sequence[str]) -> dict[str, str]:
    prefixes = tuple(f"{section}." for section in sections)
    return {
        setting: str(value)[:MAX_PARAM_LENGTH]
        for setting, value in flattened(config).items()
        if value is not None and setting.startswith(prefixes)
    }


def _source_tags() -> dict[str, str]:
    tags = {**commit_tags(), **ray_job_tags(), "mlflow.source.name": job_name()}
    if "git.commit" in tags:  # MLflow shows its own tag beside the job's name
        tags["mlflow.source.git.commit"] = tags["git.commit"]
    return tags


def _signature(clip_shape: tuple[int, ...], num_classes: int) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    any_batch, float32 = -1, np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (any_batch, *clip_shape), "clip")]),
        outputs=Schema([TensorSpec(float32, (any_batch, num_classes), "logits")]),
    )


def _is_database(uri: str) -> bool:
    return uri.startswith("sqlite:")


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///"))
