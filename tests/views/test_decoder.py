"""The child that decodes: its crashes, hangs and end."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.video import probe_video
from pipeline.views import decoder as decode_process
from pipeline.views.clip import clips_of
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import Box, View

ROOT = Path(__file__).parents[2]
LIMITS = VideoLimits()
VIEW = View(view_index=0, frame_indices=(0, 3, 7), box=Box(0, 0, 40, 40), flip=True)


@pytest.fixture(scope="session")
def record(tmp_path_factory, make_video, make_record) -> VideoRecord:
    path = make_video(tmp_path_factory.mktemp("decode") / "a.avi", 10)
    return probe_video(make_record(path), LIMITS)


@pytest.fixture
def decoder():
    decoder = DecodeProcess()
    yield decoder
    decoder.close()


@pytest.fixture
def endless(record, tmp_path) -> VideoRecord:
    """A video that never answers: a pipe that nobody writes to."""
    path = tmp_path / "endless.avi"
    os.mkfifo(path)
    return replace(record, sample_id="endless", uri=str(path))


def child_of(decoder: DecodeProcess) -> int:
    assert decoder._child is not None
    return decoder._child.pid


def wait_until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_the_child_gives_what_the_parent_would(record, decoder):
    assert decoder.probe(record, LIMITS) == probe_video(record, LIMITS)
    (ours,) = clips_of(record, [VIEW], LIMITS, side=32)
    (theirs,) = decoder.clips(record, [VIEW], LIMITS, side=32)
    assert np.array_equal(ours.frames, theirs.frames)
    assert np.array_equal(ours.frame_crc, theirs.frame_crc)
    (unproved,) = decoder.clips(record, [VIEW], LIMITS, side=32, prove=False)
    assert unproved.frame_crc.size == 0


def test_clips_come_one_by_one_as_they_are_finished(record, decoder):
    views = [replace(VIEW, frame_indices=frames) for frames in ((4, 9), (0, 3, 7), (1, 2))]
    together = clips_of(record, views, LIMITS, side=32)
    found = list(decoder.each_clip(record, views, LIMITS, side=32))
    assert [number for number, _ in found] == [2, 1, 0]
    for number, clip in found:
        assert np.array_equal(clip.frames, together[number].frames)


def test_clips_that_nobody_fetches_are_no_later_answer(record, decoder):
    next(decoder.each_clip(record, [VIEW, VIEW, VIEW], LIMITS, side=32))
    assert decoder.probe(record, LIMITS) == record


def test_an_error_between_clips_is_the_video_s(record, decoder):
    beyond = replace(VIEW, frame_indices=(2, 10))
    clips = decoder.each_clip(record, [VIEW, beyond], LIMITS, side=32)
    assert next(clips)[0] == 0
    with pytest.raises(VideoDecodeError, match="ended at frame 10"):
        next(clips)
    assert decoder.probe(record, LIMITS) == record


def test_one_child_serves_all_requests_also_after_an_error(record, decoder, tmp_path):
    decoder.probe(record, LIMITS)
    child = child_of(decoder)
    with pytest.raises(VideoDecodeError, match="is not there") as caught:
        decoder.probe(replace(record, uri=str(tmp_path / "none.avi")), LIMITS)
    assert caught.value.status == Status.NOT_FOUND
    os.kill(child, signal.SIGINT)  # as Ctrl-C sends to all; the parent decides
    decoder.probe(record, LIMITS)
    assert child_of(decoder) == child


def stopped_child_of(decoder: DecodeProcess) -> int:
    """Stop the child that waits for requests, so that it will not answer the next one."""
    child = child_of(decoder)
    os.kill(child, signal.SIGSTOP)
    return child


def wait_until_asked(decoder: DecodeProcess) -> None:
    """Wait until a request lies in the pipe of a child that is stopped."""

    def unread_bytes() -> int:
        assert decoder._pipe is not None
        answer = fcntl.ioctl(decoder._pipe.fileno(), termios.TIOCOUTQ, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    wait_until(lambda: unread_bytes() > 0)


def child_after(earlier: int, decoder: DecodeProcess) -> int:
    """Wait for the next child. The other thread has none in between."""
    wait_until(lambda: getattr(decoder._child, "pid", earlier) != earlier)
    return child_of(decoder)


def test_a_video_that_crashes_two_children_is_bad_and_the_next_request_works(
    record, endless, decoder
):
    decoder.probe(record, LIMITS)
    child = stopped_child_of(decoder)

    def crash_twice() -> None:
        wait_until_asked(decoder)
        os.kill(child, signal.SIGSEGV)
        os.kill(child, signal.SIGCONT)  # or it would not even die
        os.kill(child_after(child, decoder), signal.SIGSEGV)

    killer = threading.Thread(target=crash_twice)
    killer.start()
    with pytest.raises(VideoDecodeError, match="SIGSEGV") as caught:
        decoder.probe(endless, LIMITS)
    killer.join()
    assert caught.value.status == Status.CRASHED
    assert caught.value.sample_id == "endless"
    assert decoder.probe(record, LIMITS) == record
    assert child_of(decoder) != child


def test_a_child_that_is_killed_once_costs_no_video(record, endless, decoder):
    whole = Path(shutil.copy(record.uri, f"{endless.uri}.whole"))
    decoder.probe(record, LIMITS)
    child = stopped_child_of(decoder)

    def kill_once() -> None:
        wait_until_asked(decoder)
        whole.replace(endless.uri)  # what the next child meets
        os.kill(child, signal.SIGKILL)

    killer = threading.Thread(target=kill_once)
    killer.start()
    assert decoder.probe(endless, LIMITS).sha256 == record.sha256
    killer.join()
    assert child_of(decoder) != child


def test_a_child_that_died_between_requests_is_nobody_s_fault(record, decoder):
    decoder.probe(record, LIMITS)
    os.kill(child_of(decoder), signal.SIGKILL)
    decoder._child.wait()
    assert decoder.probe(record, LIMITS) == record


def test_a_hang_ends_by_the_parent_s_watch(record, endless, decoder, monkeypatch):
    decoder.probe(record, LIMITS)
    child = child_of(decoder)
    monkeypatch.setattr(decode_process, "GRACE_SECONDS", 0.2)
    with pytest.raises(VideoDecodeError, match="hung the decoder") as caught:
        decoder.probe(endless, VideoLimits(decode_seconds=0.2))
    assert caught.value.status == Status.TIMED_OUT
    assert not is_running(child)
    monkeypatch.undo()
    assert decoder.probe(record, LIMITS) == record


def test_a_hang_ends_by_the_child_s_own_alarm(endless):
    """Without any parent: the alarm works inside a call that never returns."""
    code = f"""
import sys
from multiprocessing import Pipe
from pipeline.views import decoder as decode_process
from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.video import probe_video
decode_process.GRACE_SECONDS = 1
ours, theirs = Pipe()
ours.send((probe_video, {replace(endless, status=1)!r}, VideoLimits(decode_seconds=0.5), {{}}))
decode_process.serve(theirs)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGALRM, done.stderr.decode()


def test_the_child_ends_with_a_parent_that_is_killed(record):
    code = f"""
import os, signal, sys
from pipeline.config.schema import VideoLimits
from pipeline.views.decoder import DecodeProcess
from pipeline.dataset.manifest import VideoRecord
decoder = DecodeProcess()
decoder.probe({replace(record, status=1)!r}, VideoLimits())
print(decoder._child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    wait_until(lambda: not is_running(int(done.stdout)))
