"""The one resizer: OpenCV, for teacher, student and prepared frames alike."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

cv2.setNumThreads(1)  # many decoding processes share a machine; each keeps to its core


def resized(picture: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize a picture ``(H, W, 3)`` to ``(height, width, 3)``."""
    # Published: bilinear always. Where it shrinks it reads four pixels of each area and misses the
    # rest; near 224 that hardly shows, in small clips moving things flicker.
    shrinks = picture.shape[0] >= height and picture.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    result = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method)
    return result.astype(np.uint8, copy=False)
