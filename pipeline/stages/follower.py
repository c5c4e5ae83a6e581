"""The follower of training runs in the driver, and the worker that reports to it.

Only the driver talks to MLflow, so workers put messages into a queue of Ray's. A message is a dict
that names its ``run``. It may hold the number of finished steps (``step``), a text to show
(``text``), an evaluated epoch (what ``EpochResult.as_report`` returns), or the error that ended the
run (``failure``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from pipeline.tracking.progress import Progress
from pipeline.training.loop import EpochResult, LoneWorker
from pipeline.training.step import Training

STEP_SECONDS = 2.0  # between two messages of finished steps
Message = dict[str, Any]


class Follower:
    """A thread that shows the progress of runs and passes their messages on.

    ``receive`` is called for every message, in the order of its run. What it raises does not end
    the following of other runs; the first error is raised on leaving.
    """

    def __init__(
        self, title: str, num_steps: int, receive: Callable[[Message, Progress], None]
    ) -> None:
        from ray.util.queue import Queue

        self.queue: Any = Queue(actor_options={"num_cpus": 0})
        self._progress = Progress(title, num_steps, "steps")
        self._receive = receive
        self._steps: dict[str, int] = {}
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.queue.put(None)
        self._thread.join()
        self.queue.shutdown()
        if self._error is not None and error is None:
            raise self._error

    def _follow(self) -> None:
        with self._progress as progress:
            while (message := self.queue.get()) is not None:
                if "step" in message:
                    self._steps[message["run"]] = message["step"]
                    progress.reach(sum(self._steps.values()))
                if "text" in message:
                    progress.say(message["text"])
                try:
                    self._receive(message, progress)
                except Exception as error:
                    self._error = self._error or error


class ReportingWorker(LoneWorker):
    """The only worker of a run, which reports to the driver and keeps no checkpoints."""

    def __init__(self, device: torch.device, run: str, queue: Any) -> None:
        super().__init__(device)
        self._run, self._queue = run, queue
        self._last_message = time.monotonic()

    def say(self, text: str) -> None:
        self._queue.put({"run": self._run, "text": text})

    def advance(self, step: int) -> None:
        if time.monotonic() - self._last_message > STEP_SECONDS:
            self._last_message = time.monotonic()
            self._queue.put({"run": self._run, "step": step})

    def report(self, epoch: EpochResult, training: Training) -> None:
        self._queue.put({"run": self._run, **epoch.as_report()})
