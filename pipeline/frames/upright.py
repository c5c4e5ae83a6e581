"""From a decoded frame to an upright RGB picture, as the ffmpeg command line shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

Frame = npt.NDArray[np.uint8]  # (H, W, 3), RGB, upright

AS_THE_FILE_SAYS: Mapping[str, int] = MappingProxyType({})
DEEP_FORMAT = re.compile(r"(yuva?4\d\dp)\d+[lb]e")  # planar, of over 8 bits


class Orientation(NamedTuple):
    """How a stored picture becomes upright: rows and columns swapped first, then mirrored."""

    transposed: bool
    left_to_right: bool
    top_to_bottom: bool


class Upright:
    """Converts the frames of one video to RGB pictures of one size.

    Args:
        width: of the first picture of the video, upright.
        height: likewise.
        colours: how stored colours are read, in the words of PyAV's ``reformat``.

    """

    def __init__(self, width: int, height: int, colours: Mapping[str, int]) -> None:
        self._size, self._colours = (width, height), colours
        # Kept: a new one for every frame costs more than converting.
        self._to_8_bits, self._to_rgb = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Any) -> Frame:
        """Convert a frame.

        Pictures of over 8 bits are brought to 8 bits first, because libswscale interpolates the
        colours of the deeper 4:2:0 and repeats those of the other. Pictures of another size than
        the first are scaled to it, bicubically, as by the ffmpeg command line.
        """
        way = orientation_of(frame)
        if deep := DEEP_FORMAT.fullmatch(frame.format.name):
            frame = self._to_8_bits.reformat(frame, format=deep[1], threads=1)
        width, height = self._size[::-1] if way.transposed else self._size
        same_size = (frame.width, frame.height) == (width, height)
        converted = self._to_rgb.reformat(
            frame,
            width,
            height,
            "rgb24",
            interpolation="BILINEAR" if same_size else "BICUBIC",
            threads=1,
            **self._colours,
        )
        picture = np.asarray(converted.to_ndarray(), np.uint8)
        if way.transposed:
            picture = picture.transpose(1, 0, 2)
        return picture[:: -1 if way.top_to_bottom else 1, :: -1 if way.left_to_right else 1]


def upright_size(frame: Any) -> tuple[int, int]:
    """Return width and height of a frame once it is upright."""
    size = (frame.width, frame.height)
    return size[::-1] if orientation_of(frame).transposed else size


def rotation_of(frame: Any) -> int:
    """Return by how many degrees a frame is turned, counter-clockwise: 0, 90, 180 or 270."""
    return 90 * int(round(frame.rotation / 90) % 4)


def orientation_of(frame: Any) -> Orientation:
    """Read the display matrix; of an oblique one, take the nearest of the eight orientations.

    ``frame.rotation`` is not enough: it knows of no reflection.
    """
    a, b, c, d = _matrix_of(frame)  # the stored (x, y) is shown at (ax + cy, bx + dy)
    if abs(a) + abs(d) < abs(b) + abs(c):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def _matrix_of(frame: Any) -> tuple[int, int, int, int]:
    try:
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
                return a, b, c, d
    except ValueError:  # PyAV has no name for other data of this frame, such as EXIF
        turns = rotation_of(frame) // 90
        return ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[turns]
    return 1, 0, 0, 1
