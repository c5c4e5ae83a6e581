"""The run that a stage logs to, whatever becomes of the server.

Every method returns at once: what is logged goes into an outbox and is sent behind. MLflow itself
is on the other side, in ``pipeline.tracking.server``.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from pipeline.tracking.outbox import Outbox

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dvflnet import VideoFocalNet
    from pipeline.tracking.server import OpenRun

IDLE_SECONDS = 20.0  # without a single success, before the rest is given up at the end
SYSTEM_SECONDS = 10.0  # between two looks at the machine
FIRST_LOOKS = 6  # leave the first number to the stage: MLflow compares by what was logged first
LOCAL_UI = "http://127.0.0.1:5000"  # where ``make ui`` shows a database file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunHandle:
    """Names a run, also to other processes and before the server has answered."""

    uri: str
    experiment: str
    stage: str
    key: str

    @property
    def ui(self) -> str:
        """Where the pages are."""
        return self.uri.rstrip("/") if self.uri.startswith("http") else LOCAL_UI


class TrackedRun:
    """A run to log to. Nothing here waits for the server or raises because of it.

    As a context manager it ends the run: FINISHED, FAILED after an exception, KILLED after Ctrl-C
    or SIGTERM. A process that dies otherwise leaves it RUNNING; the next start reopens it, and if
    none comes, another job of the experiment ends it.
    """

    def __init__(self, handle: RunHandle, outbox: Outbox[OpenRun]) -> None:
        self.handle = handle
        self._outbox = outbox
        self._measured = False  # whether the stage has logged a number of its own
        self._ended = threading.Event()

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None while the server has not answered."""
        return self._outbox.receiver.run_id if self._outbox.receiver else None

    @property
    def link(self) -> str:
        """The page of this run."""
        return self._page(f"/runs/{self.run_id}?")

    @property
    def charts_link(self) -> str:
        """The curves of all runs of the experiment."""
        return self._page("/runs?compareRunsMode=CHART&")

    def wait_opened(self, seconds: float) -> None:
        """Wait until the run is open on the server, no longer than so many seconds."""
        if not self._outbox.wait_connected(seconds):
            logger.warning(
                "MLflow at %s does not answer; what is logged is kept until it does",
                self.handle.uri,
            )

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log a point of each curve; steps that a curve already has are left out."""
        timestamp = now()  # part of a point's identity: sent twice, it is still one point
        self._outbox.put(lambda run: run.log_new_points(step, timestamp, values))
        self._measured = True

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Log numbers of the whole run, such as ``best/top1``; a later value replaces one."""
        timestamp = now()
        self._outbox.put(lambda run: run.log_points(0, timestamp, values))

    def log_artifact(self, path: str, content: bytes) -> None:
        """Log a file as an artifact."""
        self._outbox.put(lambda run: run.log_artifact(path, content))

    def log_text(self, path: str, text: str) -> None:
        """Log a text as an artifact."""
        self.log_artifact(path, text.encode())

    def log_figure(self, path: str, figure: Figure) -> None:
        """Log a figure as a PNG artifact."""
        self.log_artifact(path, figure_png(figure))

    def log_dataset(self, name: str, *, digest: str, uri: str, context: str) -> None:
        """Log what the run reads or makes, so that a search by digest finds all its users."""
        self._outbox.put(lambda run: run.log_dataset(name, digest, uri, context))

    def log_model(
        self, model: VideoFocalNet, *, num_frames: int, side: int, metadata: Mapping[str, Any]
    ) -> None:
        """Log a network that loads without this package. Takes half a minute, behind.

        Args:
            model: on the CPU, in eval mode; not to be changed until the run ends.
            num_frames: frames T of its clips.
            side: height and width of its clips.
            metadata: what its users need to know, such as class names in order.

        """
        folder = tempfile.TemporaryDirectory(prefix="mlflow-model-")
        path = Path(folder.name, "model")

        def upload(run: OpenRun) -> None:
            run.upload_model(path)
            folder.cleanup()

        self._outbox.put(lambda run: run.export_model(model, path, num_frames, side, metadata))
        self._outbox.put(upload)

    def watch_system(self) -> None:
        """Log what the machine is doing, every few seconds, until the run ends."""
        threading.Thread(target=self._log_system, name="system metrics", daemon=True).start()

    def finish(self, status: str) -> None:
        """End the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        timestamp = now()
        self._outbox.put(lambda run: run.terminate(status, timestamp))
        self.close()

    def close(self) -> None:
        """Send what is left and leave the run as it is, for the process that opened it."""
        self._ended.set()
        lost = self._outbox.close(IDLE_SECONDS)
        if lost:
            logger.warning(
                "%d entries never reached MLflow at %s: %s",
                lost,
                self.handle.uri,
                self._outbox.error,
            )

    def __enter__(self) -> TrackedRun:
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _leave)  # the default would leave the run RUNNING
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _in_main_thread() and signal.getsignal(signal.SIGTERM) == _leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        self.finish("KILLED" if killed else "FAILED" if error else "FINISHED")

    def _page(self, page: str) -> str:
        """Return the long form of a link: a short one opens MLflow's page for language models."""
        run = self._outbox.receiver
        if run is None:
            return self.handle.ui
        place = f"/#/experiments/{run.experiment_id}{page}"
        return f"{self.handle.ui}{place}workflowType=machine_learning"

    def _log_system(self) -> None:
        # MLflow's monitor knows CPU, memory, disk, network and GPUs, but its own thread ends for
        # good at the first failed request. So we borrow its eyes and log like everything else.
        monitor: Any = None
        num_looks = 0
        while not self._ended.wait(SYSTEM_SECONDS):
            if (run := self._outbox.receiver) is None:
                continue
            self._outbox.put(lambda run: run.end_silent_runs())
            num_looks += 1
            if not self._measured and num_looks <= FIRST_LOOKS:
                continue
            monitor = monitor or run.system_monitor()
            monitor.collect_metrics()
            seen = monitor.aggregate_metrics()
            self.log_metrics(
                run.seconds_open(), {f"system/{name}": value for name, value in seen.items()}
            )
            for part in monitor.monitors:
                part.clear_metrics()


def now() -> int:
    """Return the time as MLflow counts it, in milliseconds."""
    return int(1000 * time.time())


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _leave(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)


def figure_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
