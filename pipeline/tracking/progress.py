"""Progress on standard error: a bar on a terminal, a line every few seconds in the log of a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

LOG_EVERY_SECONDS = 5.0
RENEW_EVERY_SECONDS = 0.2
Item = TypeVar("Item")
BAR_WIDTH = 24  # characters
MAX_WARNINGS = 10
TO_START_OF_LINE, CLEAR_LINE = "\r", "\x1b[K"


class Progress:
    """Count work done, with rate and remaining time."""

    hidden = False  # for the whole process, set by ``--quiet``

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = self._first = self._num_warnings = 0
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
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
            self._show(note, end=TO_START_OF_LINE if self._terminal else "\n")

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items, and count each as finished when the next one is asked for."""
        for item in items:
            yield item
            self.advance(1)

    def say(self, text: str) -> None:
        """Print a milestone to standard output, above the bar; hidden like the bar itself."""
        if not self.hidden:
            self._print(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Print a warning to standard output, above the bar, even with ``--quiet``; ten at most."""
        self._num_warnings += 1
        if self._num_warnings > MAX_WARNINGS:
            text = f"more than {MAX_WARNINGS} warnings; the others are summed up at the end"
        if self._num_warnings <= MAX_WARNINGS + 1:
            self._print(text, sys.stdout)

    def _show(self, note: str, *, end: str) -> None:
        self._shown = time.monotonic()
        if not self.hidden:
            self._print(self._line(note), sys.stderr, end)

    def _print(self, text: str, file: TextIO, end: str = "\n") -> None:
        if self._terminal and not self.hidden:
            print(end=TO_START_OF_LINE + CLEAR_LINE, file=sys.stderr, flush=True)
        print(text, end=end, file=file, flush=True)

    def _line(self, note: str) -> str:
        bar = ""
        if self._terminal:
            filled = BAR_WIDTH * self._done // max(self._total, 1)
            bar = "█" * filled + "░" * (BAR_WIDTH - filled) + " "
        parts = [f"{self._title}: {bar}{self._done}/{self._total} {self._unit}"]
        if self.rate:
            parts.append(f"{self.rate:.1f} {self._unit}/s")
            if self._done < self._total:
                parts.append(f"{duration((self._total - self._done) / self.rate)} left")
        return ", ".join(parts) + (f"  {note}" if note else "")


def duration(seconds: float) -> str:
    """Write a time in hours and minutes, or in minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
