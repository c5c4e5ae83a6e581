"""Decoding in a child process, because a broken video can crash or hang the decoder.

The parent holds a ``DecodeProcess`` and asks for probes, clips and prepared frames; the child
is started at the first request and again after it died. A crash, a hang and an exception all come
back as ``VideoDecodeError`` of the requested video. A crash counts only when the video crashes a
second child as well, since the first may have been killed from outside. An error of storage comes
back unchanged, because an outage would otherwise fill the journal with bad videos.

The child never imports torch (about 50 MB instead of 250). It ends when its parent does (end of
file on the pipe), an alarm kills it even when it hangs inside the decoder, and it gets no more
memory than a video within the limits can need.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.schema import FramesConfig, VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, StorageUnavailable, StoreCorrupt, VideoDecodeError
from pipeline.frames.opening import video_error
from pipeline.frames.prepared import PreparedVideo, prepare_video
from pipeline.frames.source import fetch
from pipeline.frames.video import probe_video
from pipeline.storage.files import longest_wait_seconds
from pipeline.storage.locks import JOB_VARIABLE, job_id
from pipeline.views.clip import Clip, clips_of, each_clip
from pipeline.views.view import View

# The decoder and storage have deadlines of their own. The parent and the alarm wait this much
# longer than both together.
GRACE_SECONDS = 10
NUM_READS = 2  # calls of storage for one video: its size and its content

# Memory of one visit beside the video's own bytes: 17 reference pictures with 3 bytes a pixel, a
# conversion and a few more, and a part that does not depend on the size of the picture.
BYTES_PER_PIXEL = 128
SPARE_BYTES = 512 * 2**20

T = TypeVar("T")


class DecodeProcess:
    """A child process that decodes one video at a time. Not for use by several threads."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def probe(self, record: VideoRecord, limits: VideoLimits) -> VideoRecord:
        """Run :func:`pipeline.frames.video.probe_video` in the child."""
        return self._ask(probe_video, record, limits)

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
            fetch(record)  # in the parent: a large file may take longer than the alarm allows
        return self._ask(clips_of, record, limits, views=views, side=side, prove=prove)

    def each_clip(
        self, record: VideoRecord, views: Sequence[View], limits: VideoLimits, *, side: int
    ) -> Iterator[tuple[int, Clip]]:
        """Run :func:`pipeline.views.clip.each_clip` in the child, without proofs."""
        # The child sends an iterator part by part, and None behind the last.
        answer: Any = self._ask(each_clip, record, limits, views=views, side=side, prove=False)
        try:
            while answer is not None:
                yield answer
                answer = self._receive(record, limits)
        except GeneratorExit:
            self.close()  # the rest of the clips would be taken for the next answer
            raise

    def prepare(
        self, record: VideoRecord, limits: VideoLimits, *, frames: FramesConfig
    ) -> PreparedVideo:
        """Run :func:`pipeline.frames.prepared.prepare_video` in the child."""
        return self._ask(prepare_video, record, limits, frames=frames)

    def close(self) -> None:
        if self._child is not None and self._pipe is not None:
            self._pipe.close()
            self._child.kill()
            self._child.wait()
        self._child = self._pipe = None

    def _ask(
        self, operation: Callable[..., T], record: VideoRecord, limits: VideoLimits, **more: Any
    ) -> T:
        request = (operation, record, limits, more)
        try:
            return self._ask_once(*request)
        except VideoDecodeError as error:
            if error.status != Status.CRASHED:
                raise
        return self._ask_once(*request)

    def _ask_once(
        self,
        operation: Callable[..., T],
        record: VideoRecord,
        limits: VideoLimits,
        more: dict[str, Any],
    ) -> T:
        if self._child is not None and self._child.poll() is not None:
            self.close()  # it was killed while idle, which is no fault of this video
        pipe = self._pipe or self._start()
        try:
            pipe.send((operation, record, limits, more))
        except ConnectionError:
            raise self._crashed(record) from None
        answer: T = self._receive(record, limits)
        return answer

    def _receive(self, record: VideoRecord, limits: VideoLimits) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(_allowed_seconds(record, limits)):
                self.close()
                reason = f"hung the decoder for over {limits.decode_seconds:.0f} s"
                raise video_error(record, Status.TIMED_OUT, reason)
            answer = self._pipe.recv()
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
                # The child gets our import path, which in Ray's workers is that of the driver.
                # It belongs to this job, so it does not verify files again.
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
        return video_error(record, status, reason)


def serve(pipe: Connection) -> None:
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
            if isinstance(answer, Iterator):  # each part has as long as an answer
                for part in answer:
                    signal.alarm(0)
                    pipe.send(part)
                    signal.alarm(math.ceil(_allowed_seconds(record, limits)))
                answer = None
        except (VideoDecodeError, StoreCorrupt, StorageUnavailable) as error:
            answer = error
        except MemoryError:
            reason = "needs more memory than a video within the limits"
            answer = video_error(record, Status.OVER_LIMIT, reason)
        signal.alarm(0)
        pipe.send(answer)


def _allowed_seconds(record: VideoRecord, limits: VideoLimits) -> float:
    reading = NUM_READS * longest_wait_seconds(record.uri)
    return limits.decode_seconds + reading + GRACE_SECONDS


def _limit_memory(limits: VideoLimits) -> None:
    """Limit the memory of one video; an allocation beyond it raises ``MemoryError``.

    The limit is on private writable memory, without mapped files and libraries. Only Linux says
    how much of it is in use already.
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
