"""A queue of calls to a server that may be slow or away; the work that fills it never waits.

A background thread makes the calls in order and keeps each one until it succeeds. A server that
comes back gets everything it missed; one that never does costs a bounded wait at the end and a
warning. (MLflow's own asynchronous logging drops a batch whose request fails.)
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from queue import Queue

Call = Callable[[], object]

FIRST_PAUSE_SECONDS = 0.25
MAX_PAUSE_SECONDS = 4.0
MAX_REFUSALS = 4
MAX_CALL_SECONDS = 300.0  # while the server answers: exporting a model is slow work

logger = logging.getLogger(__name__)


class Outbox:
    """Calls that may fail and are then repeated; ``check`` raises if the server does not answer.

    A call that fails while the server answers is itself at fault, and is given up after
    ``MAX_REFUSALS`` attempts, so that it does not hold up the others for ever.
    """

    def __init__(self, name: str, check: Call) -> None:
        self.error: Exception | None = None  # the last one
        self._answering = False  # whether the server answered when it was last called
        self._name, self._check = name, check
        self._calls: Queue[Call | None] = Queue()  # None ends the thread
        self._num_refused = 0
        self._abandoned = threading.Event()
        self._last_success = time.monotonic()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, call: Call) -> None:
        """Add a call, which may be made twice: twice must be as good as once."""
        self._calls.put(call)

    def close(self, idle_seconds: float) -> int:
        """Make the calls that are left, and return how many never succeeded.

        The rest is given up after ``idle_seconds`` without a success. While the server answers, a
        call has ``MAX_CALL_SECONDS`` instead, since a busy machine makes it slow.
        """
        self._last_success = time.monotonic()
        while self._calls.unfinished_tasks:
            patience = MAX_CALL_SECONDS if self._answering else idle_seconds
            if time.monotonic() - self._last_success > patience:
                break
            time.sleep(0.02)
        self._abandoned.set()
        num_lost = self._calls.unfinished_tasks + self._num_refused
        self._calls.put(None)
        return num_lost

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._abandoned.is_set():
                self._make(call)
            self._calls.task_done()

    def _make(self, call: Call) -> None:
        pause, num_refusals = FIRST_PAUSE_SECONDS, 0
        while num_refusals < MAX_REFUSALS:
            try:
                call()
            except Exception as error:  # whatever it is, the work goes on
                if self._answering or self.error is None:
                    logger.warning("%s: %s; kept, and tried again", self._name, error)
                self.error, self._answering = error, False
                with contextlib.suppress(Exception):  # the same failure, and already noted
                    self._check()
                    num_refusals += 1
            else:
                self._answering, self._last_success = True, time.monotonic()
                return
            if self._abandoned.wait(pause):
                return
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        self._answering = True
        self._num_refused += 1
        logger.warning("%s: gave up one entry: %s", self._name, self.error)
