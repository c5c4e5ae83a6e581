"""The run of a stage in MLflow, and everything that is logged to it.

Tracking never decides whether work lives: an outbox opens a run and writes to it in the background,
and a stage waits for MLflow for a bounded time, at its start and at its end. A job that is started
again reopens its unfinished run and logs no step twice.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import flattened, resolved_yaml
from pipeline.errors import ConfigError
from pipeline.storage.s3 import proxy_hint
from pipeline.tracking import server, view
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.provenance import source_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from dvflnet.deployed import ClipClassifier

SERVER_SECONDS = 10.0  # to wait for a server at the start
DATABASE_SECONDS = 60.0  # and for a database file, whose tables are made on first use
IDLE_SECONDS = 20.0  # at the end the rest is given up after so long without a success
# The machine's curves wait this long for the stage's: MLflow compares runs by their first metric.
HEAD_START_SECONDS = 60.0
RENEW_SECONDS = 120.0  # between two starts of MLflow's monitor of the machine
DIGEST_LENGTH = 16  # of a data set: MLflow takes 36 characters, its table shows about 16
NOTE = "mlflow.note.content"  # the tag that MLflow shows as a description
RULE = "\n\n---\n\n"  # between what training and the newest evaluation say of a network
REMEDY = """\
  A deleted experiment is restored, or tracking.experiment set to another name; an older database
  wants `mlflow db upgrade URI`; tracking.uri names another database or server."""

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

    Waits for the server, but not long; without it the run opens later. ``name`` is what people
    read, and ``key`` identifies the work: a job that resumes has the same one. The settings of the
    config's ``sections`` become the params. A run with a ``parent`` neither waits nor watches the
    machine, since its parent does both. ``reopen_finished`` takes the newest run even if it is
    finished: the job that ended it was killed before its work counted as done.

    ConfigError if MLflow refuses the run, which no waiting would mend.
    """
    uri = config.tracking_uri
    prefixes = tuple(f"{section}." for section in sections)
    settings = flattened(config).items()
    params = {k: str(v) for k, v in settings if v is not None and k.startswith(prefixes)}
    all_tags = {"stage": stage, "run.key": key, **source_tags(), **tags}

    def find_or_create(client: MlflowClient) -> Run:
        from mlflow.entities import Param, RunTag

        if parent is not None:
            all_tags["mlflow.parentRunId"] = parent.opened().info.run_id
        experiment = server.experiment_id(client, config)
        run = server.newest_run(client, experiment, stage, key, finished=reopen_finished)
        run = run or client.create_run(experiment, tags=all_tags, run_name=name)
        client.update_run(run.info.run_id, status="RUNNING")
        known = run.data.params  # MLflow refuses to change one
        new = [Param(name, params[name]) for name in params if name not in known]
        client.log_batch(run.info.run_id, params=new, tags=[RunTag(*t) for t in all_tags.items()])
        return run

    tracked = TrackedRun(uri, find_or_create)
    tracked.log_text("config/resolved.yaml", resolved_yaml(config))
    if parent is None:
        tracked.wait_opened(DATABASE_SECONDS if server.database_file(uri) else SERVER_SECONDS)
        threading.Thread(target=tracked.watch_machine, name="machine", daemon=True).start()
    return tracked


def is_unfinished(config: ExperimentConfig, *, stage: str, key: str) -> bool:
    """Return whether a job left its run unfinished; no, if MLflow does not answer in time.

    A stage whose work is done asks this: the job that did it may have been killed at its very end.
    """
    found = threading.Event()

    def look() -> None:
        try:
            client = server.connect(config.tracking_uri)
            experiment = client.get_experiment_by_name(server.experiment_name(config))
            if experiment and server.newest_run(client, experiment.experiment_id, stage, key):
                found.set()
        except Exception as error:  # tracking never decides whether work lives
            logger.warning("MLflow at %s does not answer: %s", config.tracking_uri, error)

    thread = threading.Thread(target=look, name="MLflow", daemon=True)
    thread.start()
    thread.join(SERVER_SECONDS)
    return found.is_set()


class TrackedRun:
    """A run to log to. Nothing here waits for the server or raises because of it.

    As a context manager it ends the run: FINISHED, FAILED after an exception, KILLED after Ctrl-C
    or SIGTERM. A process that dies otherwise leaves it RUNNING, until the same command reopens it.
    ``find_or_create`` opens the run, and is repeated until it succeeds.
    """

    def __init__(self, uri: str, find_or_create: Callable[[MlflowClient], Run]) -> None:
        self._uri, self._find_or_create = uri, find_or_create
        self._client: MlflowClient
        self._run: Run | None = None
        self._last_steps: dict[str, int] = {}  # of each curve
        self._refusal: Exception | None = None
        self._answered, self._measured, self._ended = (threading.Event() for _ in range(3))
        self._outbox = Outbox("MLflow", self._check)
        self._outbox.put(self._open)

    @property
    def run_id(self) -> str | None:
        return self._run.info.run_id if self._run else None

    @property
    def link(self) -> str:
        """The page of this run, in the long form: a short link opens a page for language models."""
        return self._page(f"runs/{self.run_id}?workflowType=machine_learning")

    @property
    def students_link(self) -> str:
        """The page that compares the students of this run's experiment."""
        return self._page(view.PAGE)

    def _page(self, path: str) -> str:
        """Return a page of this run's experiment, or what ``server.shown_by`` says."""
        place = server.shown_by(self._uri)
        if self._run is None or server.database_file(self._uri):
            return place
        return f"{place}/#/experiments/{self._run.info.experiment_id}/{path}"

    def opened(self) -> Run:
        """Return the run as it was opened; ConnectionError if the server has not answered yet."""
        if self._run is None:
            raise ConnectionError("the run is not open yet")
        return self._run

    def wait_opened(self, seconds: float) -> None:
        """Wait until the run is open, with a warning if it is not; ConfigError if it is refused."""
        self._answered.wait(seconds)
        if self._run is None and self._refusal is not None:
            self._outbox.close(0.0)
            raise ConfigError(f"MLflow at {self._uri} refuses the run: {self._refusal}\n{REMEDY}")
        if self._run is None:
            logger.warning(
                "MLflow at %s does not answer%s; what is logged is kept until it does",
                self._uri,
                proxy_hint(self._uri),
            )

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log a point of each curve; steps that a curve already has are left out."""
        timestamp = _now()

        def send(client: MlflowClient, run_id: str) -> None:
            new = {key: values[key] for key in values if step > self._last_steps.get(key, -1)}
            _log_points(client, run_id, timestamp, step, new)
            self._last_steps.update(dict.fromkeys(new, step))
            self._measured.set()

        self._put(send)

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Log numbers of the whole run, such as ``last/top1``; a later value replaces the first."""
        timestamp = _now()
        self._put(lambda client, run_id: _log_points(client, run_id, timestamp, 0, values))

    def log_artifact(self, path: str, content: bytes) -> None:
        target = PurePosixPath(path)

        def send(client: MlflowClient, run_id: str) -> None:
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder, target.name)
                local.write_bytes(content)
                parent = str(target.parent) if target.parent.name else None  # MLflow refuses "."
                client.log_artifact(run_id, str(local), parent)

        self._put(send)

    def log_text(self, path: str, text: str) -> None:
        self.log_artifact(path, text.encode())

    def describe(self, text: str, *, trained: str = "") -> None:
        """Show a text in Markdown on the run's page, and on that of the training run by a name."""

        def send(client: MlflowClient, run_id: str) -> None:
            client.set_tag(run_id, NOTE, text)
            if trained and "'" not in trained:  # which MLflow's filters cannot hold
                where = f"attributes.run_name = '{trained}' AND tags.stage LIKE 'train_%'"
                for run in client.search_runs([self.opened().info.experiment_id], where):
                    first, *_ = run.data.tags.get(NOTE, "").split(RULE)
                    client.set_tag(run.info.run_id, NOTE, f"{first}{RULE}{text}")

        self._put(send)

    def describe_experiment(self, text: str) -> None:
        """Show a text in Markdown above the table of runs, and below it a link to the students.

        MLflow shows its first line, and the rest at a click.
        """

        def send(client: MlflowClient, _: str) -> None:
            experiment = self.opened().info.experiment_id
            link = f"[Compare the students](#/experiments/{experiment}/{view.PAGE})"
            client.set_experiment_tag(experiment, NOTE, f"{text}\n\n{link}")

        self.share_students_view()
        self._put(send)

    def share_students_view(self) -> None:
        """Give the experiment the view that ``students_link`` opens."""

        def send(client: MlflowClient, _: str) -> None:
            tag = view.TAG, view.students_view()
            client.set_experiment_tag(self.opened().info.experiment_id, *tag)

        self._put(send)

    def log_figure(self, path: str, figure: Figure) -> None:
        self.log_artifact(path, figure_png(figure))

    def log_dataset(self, name: str, *, digest: str, uri: str, context: str) -> None:
        """Log what the run reads or makes, so that a search by digest finds all its users."""

        def send(client: MlflowClient, run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            source = json.dumps({"uri": uri})
            dataset = Dataset(name, digest[:DIGEST_LENGTH], source_type="uri", source=source)
            tag = InputTag("mlflow.data.context", context)
            client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

        self._put(send)

    def log_model(
        self,
        model: ClipClassifier,
        *,
        clip_shape: tuple[int, int, int, int],
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Log a network that loads without this package. Takes half a minute in the background.

        ``model`` is on the CPU, in eval mode, and must not change until the run ends; its clips are
        ``(T, H, W, 3)``. ``metadata`` is for its users, such as class names in order; its ``run``
        is the model's name. ``metrics`` are shown beside it.
        """
        self._put(
            lambda client, _: server.log_model(
                client, self.opened().info, model, clip_shape, metadata, metrics
            )
        )

    def watch_machine(self) -> None:
        """Keep MLflow's monitor at work to the end; it stops at its first failed request."""
        self._measured.wait(HEAD_START_SECONDS)
        while not self._ended.is_set():
            try:
                self._check()  # without an answer the monitor would count its steps from 0 again
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

                uri = self._client.tracking_uri  # else it makes an mlflow.db where the job started
                monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=uri)
            except Exception as error:  # no warning: the outbox has one for what matters
                logger.info("MLflow: the machine is not watched for now: %s", error)
                self._ended.wait(RENEW_SECONDS)
            else:
                monitor.start()
                self._ended.wait(RENEW_SECONDS)
                monitor.finish()

    def finish(self, status: str) -> None:
        """Send what is left, and end the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        timestamp = _now()
        self._put(lambda client, run_id: client.set_terminated(run_id, status, timestamp))
        self._ended.set()
        self._measured.set()  # wakes the watch on the machine
        if num_lost := self._outbox.close(IDLE_SECONDS):
            error = self._outbox.error or "no answer"
            logger.warning("%d entries never reached MLflow at %s: %s", num_lost, self._uri, error)

    def __enter__(self) -> TrackedRun:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        self.finish("KILLED" if killed else "FAILED" if error else "FINISHED")

    def _put(self, call: Callable[[MlflowClient, str], object]) -> None:
        """Make a call with client and run id; the opening stands before it in the outbox."""
        self._outbox.put(lambda: call(self._client, self.opened().info.run_id))

    def _open(self) -> None:
        try:
            self._client = server.connect(self._uri)
            run = self._find_or_create(self._client)
        except Exception as error:
            if server.is_refusal(error):
                self._refusal = error
                self._answered.set()
            raise
        for name in run.data.metrics:
            points = self._client.get_metric_history(run.info.run_id, name)
            self._last_steps[name] = max(point.step for point in points)
        self._run = run
        self._answered.set()

    def _check(self) -> None:
        """Raise if the server does not answer, or the run is not open yet."""
        self._client.get_run(self.opened().info.run_id)


def figure_png(figure: Figure, *, transparent: bool = False) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=transparent)
    return buffer.getvalue()


def _log_points(
    client: MlflowClient, run_id: str, timestamp: int, step: int, values: Mapping[str, float]
) -> None:
    """Log values with the time when they were made, so that a point sent twice counts once."""
    from mlflow.entities import Metric

    points = [Metric(key, float(value), timestamp, step) for key, value in values.items()]
    client.log_batch(run_id, metrics=points)


def _now() -> int:
    return int(1000 * time.time())  # milliseconds, as MLflow counts
