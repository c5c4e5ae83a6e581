"""Progress that a person can follow.

On a terminal a line that renews itself, in the log of a job a line every few seconds.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

LOG_EVERY_SECONDS = 5.0
RENEW_EVERY_SECONDS = 0.2


class Progress:
    """Count work done, with rate and remaining time."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = self._first = 0
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._show("" if kind is None else "stopped", end="\n")

    @property
    def rate(self) -> float:
        """Units a second since the first came in: actors take seconds to start."""
        seconds = time.monotonic() - self._started
        return (self._done - self._first) / seconds if seconds else 0.0

    def advance(self, count: int, note: str = "") -> None:
        """Add finished work; ``note`` is shown behind it."""
        self.reach(self._done + count, note)

    def reach(self, done: int, note: str = "") -> None:
        """Set how much work is finished."""
        if not self._done and done:
            self._first, self._started = done, time.monotonic()
        self._done = done
        pause = RENEW_EVERY_SECONDS if self._terminal else LOG_EVERY_SECONDS
        if time.monotonic() - self._shown >= pause:
            self._show(note, end="\r" if self._terminal else "\n")

    def _show(self, note: str, *, end: str) -> None:
        self._shown = time.monotonic()
        line = f"{self._title}: {self._done}/{self._total} {self._unit}"
        if self.rate:
            line += f", {self.rate:.1f} {self._unit}/s"
            if self._done < self._total:
                line += f", {(self._total - self._done) / self.rate:.0f} s left"
        line += f"  {note}" if note else ""
        print(line.ljust(100) if self._terminal else line, end=end, file=sys.stderr, flush=True)
