"""Decoding in a process of its own, because a broken video can crash or hang the decoder.

The parent holds a ``DecodeProcess`` and asks for probes, clips and prepared frames; the child
is started at the first request and again after it died. A crash, a hang and an exception all come
back as ``VideoDecodeError`` of the video that was asked for. A crash counts only when the video
crashes a second child as well: one may be the work of whoever kills processes. Storage that fails
is no fault of the video, or an outage would fill the journal with bad videos: it comes back as it
is. The child never imports torch (about 50 MB instead of 250), ends when its parent does (end of
file on the pipe), cannot outlive a hang (an alarm kills it even inside the decoder), and is refused
more memory than a video within the limits can need.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.config.schema import FramesConfig, VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, StorageUnavailable, StoreCorrupt, VideoDecodeError
from pipeline.frames.candidates import PreparedVideo, prepare_video
from pipeline.frames.prepared import fetch
from pipeline.frames.video import probe_video
from pipeline.storage.files import longest_wait_seconds
from pipeline.storage.locks import JOB_VARIABLE, job_id
from pipeline.views.clip import Clip, clips_of
from pipeline.views.view import View

# The decoder watches its own time, and so does storage; the parent and the alarm wait this much
# longer than both.
GRACE_SECONDS = 10
NUM_READS = 2  # of storage, for one video: how large it is, and what it holds

# Memory of one visit beside the video's own bytes: 17 pictures of reference with 3 bytes a pixel,
# conversion, and a few more; and what does not depend on the size of the picture.
BYTES_PER_PIXEL = 128
SPARE_BYTES = 512 * 2**20


class DecodeProcess:
    """A child process that decodes one video at a time. Not for use by several threads."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def probe(self, record: VideoRecord, limits: VideoLimits) -> VideoRecord:
        """Run :func:`pipeline.frames.video.probe_video` in the child."""
        probed: VideoRecord = self._ask(probe_video, record, limits)
        return probed

    def clips(
        self,
        record: VideoRecord,
        views: Sequence[View],
        limits: VideoLimits,
        *,
        side: int,
        prove: bool = True,
    ) -> list[Clip]:
        """Run :func:`pipeline.views.clip.clips_of` in the child."""
        if record.prepared:
            fetch(record)  # here, where no alarm counts the time that a large file takes
        clips: list[Clip] = self._ask(clips_of, record, limits, views=views, side=side, prove=prove)
        return clips

    def prepare(
        self, record: VideoRecord, limits: VideoLimits, *, frames: FramesConfig
    ) -> PreparedVideo:
        """Run :func:`pipeline.frames.candidates.prepare_video` in the child."""
        prepared: PreparedVideo = self._ask(prepare_video, record, limits, frames=frames)
        return prepared

    def close(self) -> None:
        """End the child."""
        if self._child is not None and self._pipe is not None:
            self._pipe.close()
            self._child.kill()
            self._child.wait()
        self._child = self._pipe = None

    def _ask(
        self,
        operation: Callable[..., Any],
        record: VideoRecord,
        limits: VideoLimits,
        **arguments: Any,
    ) -> Any:
        request = (operation, record, limits, arguments)
        try:
            return self._ask_once(*request)
        except VideoDecodeError as error:
            if error.status != Status.CRASHED:
                raise
        return self._ask_once(*request)

    def _ask_once(
        self,
        operation: Callable[..., Any],
        record: VideoRecord,
        limits: VideoLimits,
        arguments: dict[str, Any],
    ) -> Any:
        if self._child is not None and self._child.poll() is not None:
            self.close()  # it was killed while it waited, which is no fault of this video
        pipe = self._pipe or self._start()
        try:
            pipe.send((operation, record, limits, arguments))
            if not pipe.poll(_allowed_seconds(record, limits)):
                self.close()
                reason = f"hung the decoder for over {limits.decode_seconds:.0f} s"
                raise VideoDecodeError(record.sample_id, record.uri, reason, Status.TIMED_OUT)
            answer = pipe.recv()
        except (EOFError, ConnectionError):
            raise self._crashed(record) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pipeline.views.decoder", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # What this process can import: Ray's workers get their path from the driver. And
                # the child is part of this job, so that it verifies no file again.
                env=os.environ
                | {JOB_VARIABLE: job_id(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._pipe = ours
        return ours

    def _crashed(self, record: VideoRecord) -> VideoDecodeError:
        assert self._child is not None
        code = self._child.wait()
        self.close()
        status = Status.TIMED_OUT if code == -signal.SIGALRM else Status.CRASHED
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        reason = f"ended the decoder's process ({cause})"
        return VideoDecodeError(record.sample_id, record.uri, reason, status)


def serve(pipe: Connection) -> None:
    """Answer requests until the parent closes the pipe."""
    while True:
        try:
            operation, record, limits, arguments = pipe.recv()
        except EOFError:
            return
        signal.alarm(math.ceil(_allowed_seconds(record, limits)))  # default action: die
        if not record.prepared:
            _limit_memory(limits)
        try:
            answer = operation(record, limits=limits, **arguments)
        except (VideoDecodeError, StoreCorrupt, StorageUnavailable) as error:
            answer = error
        except MemoryError:
            reason = "needs more memory than a video within the limits"
            answer = VideoDecodeError(record.sample_id, record.uri, reason, Status.OVER_LIMIT)
        signal.alarm(0)
        pipe.send(answer)


def _allowed_seconds(record: VideoRecord, limits: VideoLimits) -> float:
    """Return after how long a visit to a video is a hang."""
    reading = NUM_READS * longest_wait_seconds(record.uri)
    return limits.decode_seconds + reading + GRACE_SECONDS


def _limit_memory(limits: VideoLimits) -> None:
    """Let one video take so much memory and no more; what asks for more gets ``MemoryError``.

    Counts what this process alone may write to, so neither mapped files nor libraries. Only Linux
    says how much that is already.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    wanted = pages * resource.getpagesize() + SPARE_BYTES
    wanted += 2 * limits.max_bytes + BYTES_PER_PIXEL * limits.max_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or wanted <= hard:
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, also at Ctrl-C
    serve(Connection(int(sys.argv[1])))
