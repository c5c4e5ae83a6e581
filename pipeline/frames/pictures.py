"""Pictures: upright RGB from decoded frames, as the ffmpeg command line shows them; JPEG; resizing.

JPEG is libjpeg-turbo's, 4:2:0, by OpenCV. Encoding is deterministic: a retried task writes the same
bytes. Why OpenCV, and what other libraries take: docs/decisions/0011.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

cv2.setNumThreads(1)  # many decoding processes share a machine; each keeps to its core

Frame = npt.NDArray[np.uint8]  # (H, W, 3), RGB, upright

AS_THE_FILE_SAYS: Mapping[str, int] = MappingProxyType({})
DEEP_FORMAT = re.compile(r"(yuva?4\d\dp)\d+[lb]e")  # planar, of over 8 bits


class Orientation(NamedTuple):
    """The steps that make a stored picture upright: rows and columns swapped, then mirrored."""

    transposed: bool
    left_to_right: bool
    top_to_bottom: bool


class Upright:
    """Converts the frames of one video to RGB pictures of the size of its first one, upright.

    ``colours`` are arguments of PyAV's ``reformat`` that say how stored colours are read.
    """

    def __init__(self, width: int, height: int, colours: Mapping[str, int]) -> None:
        self._size, self._colours = (width, height), colours
        # Kept: a new one for every frame costs more than converting.
        self._to_8_bits, self._to_rgb = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Any) -> Frame:
        """Convert a frame; one of another size is scaled bicubically, as the ffmpeg command does.

        Pictures of over 8 bits are brought to 8 bits first, because libswscale interpolates the
        colours of the deeper 4:2:0 and repeats those of the other.
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


def encode_jpeg(picture: Frame, quality: int) -> bytes:
    blue_first = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return content.tobytes()


def decode_jpeg(content: memoryview | bytes, height: int, width: int) -> Frame:
    """Decode a picture; ValueError if it is no whole JPEG, or of another size."""
    if not content:
        raise ValueError("it is empty")
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:  # OpenCV's answer to anything that is wrong
        raise ValueError("it is no whole JPEG")
    if picture.shape != (height, width, 3):
        found = f"{picture.shape[1]} x {picture.shape[0]}"
        raise ValueError(f"the picture is {found}, not {width} x {height}")
    return np.asarray(picture, np.uint8)


def resized(picture: Frame, height: int, width: int) -> Frame:
    """Resize a picture ``(H, W, 3)`` to ``(height, width, 3)``."""
    # The published code is bilinear always. Where that shrinks, it reads four pixels of each area
    # and misses the rest; near 224 that hardly shows, in small clips moving things flicker.
    shrinks = picture.shape[0] >= height and picture.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method)
    return result.astype(np.uint8, copy=False)
