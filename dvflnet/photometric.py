"""Colour jitter and normalisation of whole batches, on the device where the clips are.

Letters: B clips, T frames, S = 1 (one jitter a clip) or S = T (one a frame).

Brightness, saturation, hue and grey are linear in the colour and keep the grey axis, so together
they are one 3x3 matrix, known by what becomes of red, green and blue. Contrast stretches about the
mean luma; as the matrix does no more to a grey than scale it, that adds one grey to every pixel.
So clips are read twice, once for their mean, and never copied as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

JITTER_COLUMNS = ("brightness", "contrast", "saturation", "hue", "grey")
JITTER_STEPS = 256  # a factor of one, or a whole turn of hue

# Of ImageNet, for colours 0..255; teacher and student take the same.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def photometric(clips: Tensor, jitter: Tensor) -> Tensor:
    """Jitter the colours of clips; neutral jitter gives back exactly the same colours.

    What differs from the published (OpenCV and torchvision) jitter: hue turns the colour about the
    grey axis of RGB, which is linear, where theirs turns the angle of HSV; the order is fixed; and
    nothing is clamped or rounded in between.

    Args:
        clips: ``(B, T, 3, H, W)``, uint8, RGB, of any memory layout; the result is float32 in
            0..255, of the same layout.
        jitter: ``(B, S, 5)``, integers. Columns as in ``JITTER_COLUMNS``: three factors (256 is
            neutral), the turn of the hue (signed, 256 is a full turn), and 1 for grey or else 0.
    """
    _check(clips, jitter)
    mean_luma = _luma(clips.mean(dim=(3, 4), dtype=torch.float32))  # (B, T, 1)
    if jitter.shape[1] == 1:
        mean_luma = mean_luma.mean(dim=1, keepdim=True)
    colours, offset = _colour_map(jitter, mean_luma)
    jittered = torch.empty_like(clips, dtype=torch.float32)  # of the same memory layout
    jittered.copy_(offset[..., None])
    for channel in range(3):
        column = colours[:, :, channel, :, None, None]  # (B, S, 3, 1, 1)
        jittered.addcmul_(column, clips[:, :, channel, None])
    return jittered.clamp_(0.0, 255.0)


def normalise(clips: Tensor) -> Tensor:
    """Shift and scale colours by the mean and deviation of ImageNet.

    Clips ``(B, T, 3, H, W)`` of RGB in 0..255 keep their memory layout and become float32, or stay
    float64.
    """
    if clips.dim() != 5 or clips.shape[2] != 3:
        raise ValueError(f"expected clips (B, T, 3, H, W), got {tuple(clips.shape)}")
    dtype = torch.promote_types(clips.dtype, torch.float32)
    mean, std = (_per_channel(values, dtype, clips.device) for values in (MEAN, STD))
    return (clips - mean).div_(std)


def subtract_mean_frame(clips: Tensor) -> Tensor:
    """Subtract each pixel's mean over the frames, and double the rest: motion remains.

    Not published. For data whose classes differ by motion alone: with few videos a network learns
    the scenes by heart otherwise (10 gestures, 152 videos: 0.20 top-1 on held-out scenes after 400
    steps with colours, 0.40 after 300 without; see docs/log.md). Clips are ``(B, T, 3, H, W)``.
    """
    return 2.0 * (clips - clips.mean(dim=1, keepdim=True))


def _per_channel(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return ``(3, 1, 1)``, filled on the device: a copy from the host would wait for its queue."""
    filled = [torch.full((1, 1), value, dtype=dtype, device=device) for value in values]
    return torch.stack(filled)


def _colour_map(jitter: Tensor, mean_luma: Tensor) -> tuple[Tensor, Tensor]:
    """Return what becomes of red, green and blue ``(B, S, 3, 3)``, and a grey ``(B, S, 1, 1)``."""
    columns = jitter.to(torch.float32)[..., None, None].unbind(dim=2)  # five of (B, S, 1, 1)
    brightness, contrast, saturation = (column / JITTER_STEPS for column in columns[:3])
    angle, grey = columns[3] * (2.0 * math.pi / JITTER_STEPS), columns[4]
    colours = torch.eye(3, device=jitter.device)
    colours = _blend(colours, _luma(colours), saturation)
    colours = _turn_hue(colours, angle)
    colours = _blend(_luma(colours), colours, grey)
    offset = brightness * (1.0 - contrast) * mean_luma[..., None]
    return brightness * contrast * colours, offset


def _luma(colours: Tensor) -> Tensor:
    """Map colours ``(..., 3)`` to their luma ``(..., 1)``, ITU-R BT.601."""
    red, green, blue = colours.unbind(dim=-1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[..., None]


def _blend(colours: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    """Mix as two products, not as one difference, so that weights of one and zero are exact."""
    return weight * colours + (1.0 - weight) * others


def _turn_hue(colours: Tensor, angle: Tensor) -> Tensor:
    """Rotate colours ``(..., 3)`` about the axis (1, 1, 1): Rodrigues' formula."""
    cosine, sine = angle.cos(), angle.sin()
    across = (colours.roll(1, dims=-1) - colours.roll(-1, dims=-1)) / math.sqrt(3.0)
    along = colours.mean(dim=-1, keepdim=True)
    return cosine * colours + sine * across + (1.0 - cosine) * along


def _check(clips: Tensor, jitter: Tensor) -> None:
    if clips.dim() != 5 or clips.shape[2] != 3 or clips.dtype != torch.uint8:
        found = f"{tuple(clips.shape)} of {clips.dtype}"
        raise ValueError(f"expected clips (B, T, 3, H, W) of uint8, got {found}")
    batch, num_frames = clips.shape[:2]
    wanted = [(batch, num_jitters, len(JITTER_COLUMNS)) for num_jitters in (1, num_frames)]
    if tuple(jitter.shape) not in wanted or jitter.is_floating_point():
        found = f"{tuple(jitter.shape)} of {jitter.dtype}"
        raise ValueError(f"expected integer jitter {wanted[0]} or {wanted[1]}, got {found}")
