"""Clips: the pixels of views, as they travel to a network.

All views of a video come out of one decode pass. A clip travels as uint8 in ``(T, H, W, C)`` memory
order, in which the decoder writes and the channels-last networks read; only the device turns it
into floats.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.pictures import Frame, resized
from pipeline.frames.source import frames_of
from pipeline.views.view import View


@dataclass(frozen=True)
class Clip:
    """The pixels of a view.

    ``frames`` is uint8 ``(T, side, side, 3)``. ``frame_crc`` is uint32 ``(T,)``: CRC-32 of every
    cropped, flipped RGB frame *before* the resize, the last form that teacher and student share
    when their sides differ; empty without ``prove``.
    """

    frames: npt.NDArray[np.uint8]
    frame_crc: npt.NDArray[np.uint32]


def clips_of(
    record: VideoRecord,
    views: Sequence[View],
    limits: VideoLimits,
    *,
    side: int,
    prove: bool = True,
) -> list[Clip]:
    """Cut all views of a video, of any number of frames each, from one decode pass.

    ``side`` is height and width of the clips in pixels. ``prove`` checks the file's sha256 and
    computes the CRC of every frame.

    VideoDecodeError if the video does not yield every frame that the views want.
    """
    clips = dict(each_clip(record, views, limits, side=side, prove=prove))
    return [clips[number] for number in range(len(views))]


def each_clip(
    record: VideoRecord,
    views: Sequence[View],
    limits: VideoLimits,
    *,
    side: int,
    prove: bool = True,
) -> Iterator[tuple[int, Clip]]:
    """Yield the number and the clip of each view once its last frame is decoded."""
    wanted = defaultdict(list)  # frame index -> (number of the view, position in its clip)
    for number, view in enumerate(views):
        for position, index in enumerate(view.frame_indices):
            wanted[index].append((number, position))
    left = [len(view.frame_indices) for view in views]
    clips: dict[int, Clip] = {}
    for index, frame in frames_of(record, list(wanted), limits, verify=prove):
        for number, position in wanted[index]:
            view = views[number]
            if number not in clips:
                num_frames = len(view.frame_indices)
                clips[number] = Clip(
                    np.empty((num_frames, side, side, 3), np.uint8),
                    np.zeros(num_frames if prove else 0, np.uint32),
                )
            cut = _cut(frame, view)
            clips[number].frames[position] = resized(cut, side, side)
            if prove:
                clips[number].frame_crc[position] = _crc(cut)
            left[number] -= 1
            if not left[number]:
                yield number, clips.pop(number)


def crc_of(frame: Frame, view: View) -> int:
    """Return the CRC-32 of a frame as a view cuts it, before any resize."""
    return _crc(_cut(frame, view))


def _cut(frame: Frame, view: View) -> Frame:
    box = view.box
    cut = frame[box.top : box.top + box.height, box.left : box.left + box.width]
    return cut[:, ::-1] if view.flip else cut


def _crc(cut: Frame) -> int:
    return zlib.crc32(np.ascontiguousarray(cut).data)
