"""From clips as they travel to the tensor that a network takes, on the device.

Teacher and student take this one path, so that a cached target belongs to the student's pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dvflnet.photometric import normalise, photometric, subtract_mean_frame
from dvflnet.videofocalnet import VideoFocalNet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare_clips(
    frames: npt.NDArray[np.uint8],
    jitter: npt.NDArray[np.int16],
    device: torch.device,
    *,
    motion_only: bool,
) -> Tensor:
    """Move clips as uint8, then augment and normalise them there.

    Args:
        frames: uint8 ``(B, T, H, W, 3)``.
        jitter: ``(B, 1 or T, 5)``.
        device: of the network.
        motion_only: take each pixel's mean over the frames away.

    Returns:
        float32 ``(B, T, 3, H, W)``, in channels-last memory.

    """
    clips = torch.from_numpy(frames).to(device).permute(0, 1, 4, 2, 3)
    clips = normalise(photometric(clips, torch.from_numpy(jitter).to(device)))
    return subtract_mean_frame(clips) if motion_only else clips


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision; it does nothing for float32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")


def round_weights(network: VideoFocalNet, precision: str) -> None:
    """Hold what autocast would round anew for every batch as rounded: half the memory, same logits.

    Norms and head stay float32. What is not rounded is copied, too, so that a mapped file is let
    go of.
    """
    products = (nn.Linear, nn.Conv1d, nn.Conv2d)
    for module in network.modules():
        rounded = isinstance(module, products) and module is not network.head
        for parameter in module.parameters(recurse=False):
            dtype = PRECISIONS[precision] if rounded else parameter.dtype
            parameter.data = parameter.data.to(dtype, copy=True)
