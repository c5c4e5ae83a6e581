"""Film strips: a few frames of a video side by side, as data URIs that need no other file."""

from __future__ import annotations

import base64

import numpy as np

from pipeline.config.load import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.pictures import encode_jpeg
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import View

FRAMES_SHOWN = 5
SIDE = 96  # pixels of a frame
QUALITY = 82


def film_strip(decoder: DecodeProcess, record: VideoRecord, view: View, limits: VideoLimits) -> str:
    """Return a view of a video as a JPEG strip in a data URI, time going right.

    Raises:
        VideoDecodeError: if the video cannot be decoded any more.

    """
    (clip,) = decoder.clips(record, [view], limits, side=SIDE, prove=False)
    places = np.linspace(0, len(clip.frames) - 1, FRAMES_SHOWN).round().astype(int)
    strip = np.concatenate(list(clip.frames[places]), axis=1)  # (H, FRAMES_SHOWN * W, C)
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(strip, QUALITY)).decode()}"
