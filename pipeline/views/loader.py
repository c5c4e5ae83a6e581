"""Batches of clips in a given order, decoded ahead in child processes.

The decoding processes are those of stage one. A thread holds each of them, waits for its pipe and
puts the clip into its batch. Batches come out in the order of the requests, whichever clip is ready
first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.views.clip import Clip
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import SHARE_STEPS, View

BATCHES_AHEAD = 3
UNMIXED = (SHARE_STEPS, 0, 0, 0, 0)  # parameters of a clip that stays as it is
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipRequest:
    """A clip to load: a view of a video, with or without the CRCs of its pixels.

    ``view`` is the teacher's; the clip has one in ``frame_stride`` of its frames. A view that is
    mixed comes with the request of its partner's clip, as that is without mixing.
    """

    row: int
    record: VideoRecord
    view: View
    frame_stride: int = 1
    prove: bool = False
    partner: ClipRequest | None = None

    @property
    def cell(self) -> tuple[int, int]:
        return self.row, self.view.view_index

    @property
    def clip_key(self) -> tuple[int, int, bool]:
        """What two requests share if one clip serves both."""
        return *self.cell, self.prove

    @property
    def seen(self) -> View:
        return self.view.every(self.frame_stride)


@dataclass(frozen=True)
class ClipMixing:
    """How B of N clips are mixed, as ``dvflnet.mixing.Mixing`` says.

    ``partners`` is int64 ``(B,)``, ``parameters`` int16 ``(B, 5)``.
    """

    partners: npt.NDArray[np.int64]
    parameters: npt.NDArray[np.int16]


@dataclass(frozen=True)
class ClipBatch:
    """Clips of equal size, stacked for the device: those of B requests, then other partners.

    ``frames`` is uint8 ``(N, T, H, W, 3)`` and holds the pixels of ``clips``; ``jitter`` is int16
    ``(N, 1 or T, 5)``.
    """

    requests: tuple[ClipRequest, ...]
    clips: tuple[Clip, ...]
    frames: npt.NDArray[np.uint8]
    jitter: npt.NDArray[np.int16]
    mixing: ClipMixing | None = None

    def parts(self, count: int) -> Iterator[ClipBatch]:
        """Cut the batch into ``count`` batches of equal size, each with the partners it needs."""
        size = len(self.requests) // count
        for start in range(0, len(self.requests), size):
            requests = self.requests[start : start + size]
            places, mixing = list(range(start, start + size)), None
            if self.mixing is not None:
                partners = self.mixing.partners[start : start + size].tolist()
                places += sorted({*partners} - {*places})
                there = np.array([places.index(partner) for partner in partners], np.int64)
                mixing = ClipMixing(there, self.mixing.parameters[start : start + size])
            clips = tuple(self.clips[place] for place in places)
            own = slice(start, start + size)  # which is no copy
            frames = self.frames[own if mixing is None else places]
            yield ClipBatch(requests, clips, frames, self.jitter[places], mixing)


def _new_frames(shape: tuple[int, ...]) -> Frames:
    return np.empty(shape, np.uint8)


class ClipLoader:
    """Decodes batches ahead, inside a ``with``.

    ``new_frames`` makes the array, of a given shape, that the clips of a batch are put into.
    """

    def __init__(
        self,
        num_loaders: int,
        limits: VideoLimits,
        *,
        side: int,
        new_frames: Callable[[tuple[int, ...]], Frames] = _new_frames,
    ) -> None:
        self._limits, self._side, self._new_frames = limits, side, new_frames
        self._threads = ThreadPoolExecutor(num_loaders, thread_name_prefix="clip-loader")
        self._local = threading.local()
        self._decoders: list[DecodeProcess] = []

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def batches(self, wanted: Iterable[Sequence[ClipRequest]]) -> Iterator[ClipBatch]:
        """Yield the batches of ``wanted``, in order; VideoDecodeError when a bad clip is due."""
        ahead: deque[tuple[ClipBatch, list[Future[Clip]]]] = deque()
        try:
            for requests in wanted:
                ahead.append(self._start(tuple(requests)))
                if len(ahead) > BATCHES_AHEAD:
                    yield _finished(*ahead.popleft())
            while ahead:
                yield _finished(*ahead.popleft())
        finally:
            for _, clips in ahead:
                for clip in clips:
                    clip.cancel()

    def _start(self, requests: tuple[ClipRequest, ...]) -> tuple[ClipBatch, list[Future[Clip]]]:
        """Return a batch without its clips, which are being put into its frames."""
        loaded = _with_partners(requests)
        jitter = jitter_rows([request.seen for request in loaded])
        mixing = _mixing(requests, {it.clip_key: place for place, it in enumerate(loaded)})
        num_frames = len(loaded[0].seen.frame_indices)
        frames = self._new_frames((len(loaded), num_frames, self._side, self._side, 3))
        pairs = zip(loaded, frames, strict=True)
        clips = [self._threads.submit(self._load, *pair) for pair in pairs]
        return ClipBatch(requests, (), frames, jitter, mixing), clips

    def _load(self, request: ClipRequest, place: Frames) -> Clip:
        """Decode a clip into its place in a batch, so that no caller waits for the copy."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = DecodeProcess()
            self._decoders.append(self._local.decoder)
        decoder: DecodeProcess = self._local.decoder
        (clip,) = decoder.clips(
            request.record, [request.seen], self._limits, side=self._side, prove=request.prove
        )
        place[:] = clip.frames
        return Clip(place, clip.frame_crc)


def _with_partners(requests: Sequence[ClipRequest]) -> list[ClipRequest]:
    """Add the partners that are not themselves in the batch."""
    there = {request.clip_key for request in requests}
    partners = [request.partner for request in requests if request.partner is not None]
    missing = {it.clip_key: it for it in partners if it.clip_key not in there}
    return [*requests, *missing.values()]


def _finished(batch: ClipBatch, clips: Sequence[Future[Clip]]) -> ClipBatch:
    return replace(batch, clips=tuple(clip.result() for clip in clips))


def _mixing(
    requests: Sequence[ClipRequest], places: Mapping[tuple[int, int, bool], int]
) -> ClipMixing | None:
    """Return how the clips of requests are mixed, given the places of all; None if none is."""
    if not any(request.partner for request in requests):
        return None
    partners = [places[(request.partner or request).clip_key] for request in requests]
    parameters = [view.mix.as_row if (view := r.view).mix else UNMIXED for r in requests]
    return ClipMixing(np.array(partners, np.int64), np.array(parameters, np.int16))


def clip_shapes(config: ExperimentConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of one clip's frames and of its photometric parameters, for the teacher."""
    clip = config.clip
    jitter = (clip.num_frames if config.views.jitter_per_frame else 1, 5)
    return (clip.num_frames, clip.side, clip.side, 3), jitter


def jitter_rows(views: Sequence[View]) -> npt.NDArray[np.int16]:
    """Lay out the photometric parameters of views, ``(B, 1 or T, 5)``."""
    return np.array([[jitter.as_row for jitter in view.jitters] for view in views], np.int16)
