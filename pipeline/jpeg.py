"""JPEG as prepared frames use it: libjpeg-turbo by simplejpeg, 4:2:0, the accurate transforms.

The faster transforms decode 8 % quicker and cost 1 to 3 dB. Encoding is deterministic: a retried
task writes the same bytes. Other libraries, measured: docs/decisions/0010.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg

Picture = npt.NDArray[np.uint8]  # (H, W, 3), RGB


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """Encode a picture at a quality of 1 to 100."""
    contiguous = np.ascontiguousarray(picture)
    return bytes(simplejpeg.encode_jpeg(contiguous, quality, "RGB", "420", fastdct=False))


def decode_jpeg(content: memoryview | bytes, height: int, width: int) -> Picture:
    """Decode a picture of a known size, uint8 ``(height, width, 3)``.

    Raises:
        ValueError: if it is no sound JPEG, or of another size.

    """
    # A buffer of the right size also keeps a broken header from asking for gigabytes.
    picture: Picture = np.empty((height, width, 3), np.uint8)
    found = simplejpeg.decode_jpeg(content, "RGB", buffer=picture).shape
    if found != picture.shape:
        raise ValueError(f"the picture is {found[1]} x {found[0]}, not {width} x {height}")
    return picture
