"""What a person sees of a job's progress: on a terminal, in a log, and with --quiet."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking.progress import CLEAR_LINE, TO_START_OF_LINE, Progress, duration

ROOT = Path(__file__).parents[2]
WORK = """
import sys
from pipeline.tracking import progress
progress.RENEW_EVERY_SECONDS = progress.LOG_EVERY_SECONDS = 0
progress.Progress.hidden = "--quiet" in sys.argv
with progress.Progress("cache", 4, "clips") as shown:
    for number in shown.over(range(4)):
        if number == 2:
            shown.say("half of it is done")
            shown.warn("bad video: v7")
"""


def run_on_terminal(*words: str) -> str:
    """Return what a terminal gets of ``WORK``, escape codes and all."""
    ours, theirs = pty.openpty()
    job = [sys.executable, "-c", WORK, *words]
    subprocess.run(job, cwd=ROOT, stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    return seen


def run_into_log(*words: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", WORK, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_a_terminal_has_a_bar_that_stays_below_what_is_said() -> None:
    last = run_on_terminal().replace("\r\n", "\n").split(TO_START_OF_LINE + CLEAR_LINE)
    bars = [text for text in last if text.startswith("cache: ")]
    assert bars[0].startswith(f"cache: {'█' * 6}{'░' * 18} 1/4 clips")
    assert bars[-1].startswith(f"cache: {'█' * 24} 4/4 clips")
    assert bars[-1].endswith("\n")
    assert "half of it is done\n" in last  # on a line of its own, the bar wiped away
    assert "bad video: v7\n" in last


def test_a_log_has_plain_lines() -> None:
    said, progress = run_into_log()
    assert said == "half of it is done\nbad video: v7\n"
    lines = progress.splitlines()
    assert lines[0].startswith("cache: 1/4 clips")
    assert lines[-1].startswith("cache: 4/4 clips, ")
    assert "█" not in progress
    assert "\x1b" not in progress


def test_quiet_shows_warnings_only() -> None:
    assert run_into_log("--quiet") == ("bad video: v7\n", "")
    assert run_on_terminal("--quiet") == "bad video: v7\r\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4, "0 min 04 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (3725, "1 h 02 min")],
)
def test_durations_are_read_easily(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_warnings_end_after_ten(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("index", 30, "videos") as shown:
        for number in range(30):
            shown.warn(f"bad video: v{number}")
    said = capsys.readouterr().out.splitlines()
    assert said[9:] == [
        "bad video: v9",
        "more than 10 warnings; the others are summed up at the end",
    ]
