"""Pictures by OpenCV: JPEG for prepared frames, and the one resizer for all frames.

JPEG is libjpeg-turbo's, 4:2:0. Encoding is deterministic: a retried task writes the same bytes. Why
OpenCV, and what other libraries take: docs/decisions/0011.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

cv2.setNumThreads(1)  # many decoding processes share a machine; each keeps to its core

Picture = npt.NDArray[np.uint8]  # (H, W, 3), RGB


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """Encode a picture at a quality of 1 to 100."""
    blue_first = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return content.tobytes()


def decode_jpeg(content: memoryview | bytes, height: int, width: int) -> Picture:
    """Decode a picture of a known size, uint8 ``(height, width, 3)``.

    Raises:
        ValueError: if it is no whole JPEG, or of another size.

    """
    if not content:
        raise ValueError("it is empty")
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
    if picture is None:  # OpenCV's answer to anything that is wrong
        raise ValueError("it is no whole JPEG")
    if picture.shape != (height, width, 3):
        found = f"{picture.shape[1]} x {picture.shape[0]}"
        raise ValueError(f"the picture is {found}, not {width} x {height}")
    return np.asarray(picture, np.uint8)


def resized(picture: Picture, height: int, width: int) -> Picture:
    """Resize a picture ``(H, W, 3)`` to ``(height, width, 3)``."""
    # The published code is bilinear always. Where that shrinks, it reads four pixels of each area
    # and misses the rest; near 224 that hardly shows, in small clips moving things flicker.
    shrinks = picture.shape[0] >= height and picture.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method)
    return result.astype(np.uint8, copy=False)
