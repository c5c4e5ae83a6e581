"""Send from a background thread, in order, so that a slow or absent receiver never stops the work.

What is put in is kept until it was sent. A receiver that goes away and comes back gets everything
that it missed; one that never comes back costs a bounded wait at the end and a warning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Receiver = TypeVar("Receiver")
Entry = Callable[[Receiver], object]

FIRST_PAUSE_SECONDS = 0.25
MAX_PAUSE_SECONDS = 4.0
MAX_REFUSALS = 4
MAX_ENTRY_SECONDS = 300.0  # for one entry that has not failed yet: exporting a model is slow work

logger = logging.getLogger(__name__)


class Outbox(Generic[Receiver]):
    """A queue of entries, each a call on the receiver that may fail and is then repeated.

    Args:
        connect: makes the receiver; repeated until it does.
        check: raises if the receiver does not answer. It tells the two kinds of failure apart: an
            entry that fails while the receiver answers is itself at fault and is given up after
            a few attempts, so that it does not hold up all others for ever.

    """

    def __init__(
        self, name: str, connect: Callable[[], Receiver], check: Callable[[Receiver], object]
    ) -> None:
        self.receiver: Receiver | None = None
        self.error: Exception | None = None
        self._name, self._connect, self._check = name, connect, check
        self._entries: deque[Entry[Receiver]] = deque()
        self._num_refused = 0
        self._changed = threading.Condition()
        self._connected, self._closing, self._abandoned = (threading.Event() for _ in range(3))
        self._last_success = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, entry: Entry[Receiver]) -> None:
        """Add an entry; returns at once."""
        with self._changed:
            self._entries.append(entry)
            self._changed.notify()

    def wait_connected(self, seconds: float) -> bool:
        """Wait for the receiver, no longer than so many seconds; return whether it is there."""
        return self._connected.wait(seconds)

    def close(self, idle_seconds: float) -> int:
        """Send what is left, and return how many entries were never sent.

        Args:
            idle_seconds: give up once nothing could be sent for so long, and what is tried has
                failed before. A receiver that answers gets everything, however much was kept for
                it, and however long an entry takes on a busy machine.

        """
        self._last_success = time.monotonic()
        with self._changed:
            self._closing.set()
            self._changed.notify()
        while self._thread.is_alive():
            patience = MAX_ENTRY_SECONDS if self._at_work else idle_seconds
            if time.monotonic() - self._last_success > patience:
                break
            self._thread.join(0.05)
        self._abandoned.set()
        return len(self._entries) + self._num_refused

    @property
    def _at_work(self) -> bool:
        """Whether the entry at hand is in its first attempt."""
        return self._connected.is_set() and self.error is None

    def _run(self) -> None:
        self.receiver = self._connect_until_closed()
        if self.receiver is None:
            return
        self._connected.set()
        while (entry := self._next()) is not None:
            self._send(self.receiver, entry)
            if self._abandoned.is_set():
                return
            self._entries.popleft()

    def _connect_until_closed(self) -> Receiver | None:
        pause = FIRST_PAUSE_SECONDS
        while not self._abandoned.wait(pause if self.error else 0.0):
            try:
                return self._connect()
            except Exception as error:
                self._note(error)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        return None

    def _next(self) -> Entry[Receiver] | None:
        """Wait for an entry; return None at the end. The entry stays first until it was sent."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closing.is_set())
            return self._entries[0] if self._entries else None

    def _send(self, receiver: Receiver, entry: Entry[Receiver]) -> None:
        self.error, pause, num_refusals = None, FIRST_PAUSE_SECONDS, 0
        while num_refusals < MAX_REFUSALS:
            try:
                entry(receiver)
            except Exception as error:  # whatever it is, the work goes on
                self._note(error)
                num_refusals += self._answers(receiver)
            else:
                self._last_success = time.monotonic()
                return
            if self._abandoned.wait(pause):
                return
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
        self._num_refused += 1
        logger.warning("%s: gave up one entry: %s", self._name, self.error)

    def _answers(self, receiver: Receiver) -> bool:
        try:
            self._check(receiver)
        except Exception:  # the same trouble, seen from the other side
            return False
        return True

    def _note(self, error: Exception) -> None:
        if self.error is None:
            logger.warning("%s: %s; kept, and tried again", self._name, error)
        self.error = error
