"""Mixup and CutMix of whole clips, on the device, for teacher and student alike.

Mixup (arXiv 1710.09412) adds two clips with shares that sum to one. CutMix (1905.04899) puts a box
of one clip, the same in all frames, into the other. Both are one formula: each pixel has the share
of the clip itself and the rest of its partner's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dvflnet.losses import UNLABELLED

SHARE_STEPS = 2048  # a share in whole steps: 2048 is the clip alone
GRID = 224  # edges of a box in steps of the side; 224 pixels, as published, are exact


class Mixing(NamedTuple):
    """How the first B of N clips are mixed.

    ``partners`` is int64 ``(B,)``, places among the N clips. ``parameters`` is int16 ``(B, 5)``:
    the clip's own share outside the box, then the box's top, left, bottom and right, inside which
    it has none. A clip that is its own partner stays as it is.
    """

    partners: Tensor
    parameters: Tensor


def mix_clips(clips: Tensor, mixing: Mixing) -> Tensor:
    """Mix floating clips ``(N, T, 3, H, W)``; the result is ``(B, T, 3, H, W)``."""
    partners, parameters = (values.to(clips.device, non_blocking=True) for values in mixing)
    height, width = clips.shape[-2:]
    share = _own_shares(parameters, height, width).to(clips.dtype)[:, None, None]
    return share * clips[: len(partners)] + (1.0 - share) * clips[partners]


def own_shares(parameters: Tensor, side: int) -> Tensor:
    """Return the part of each clip that is its own, float32 ``(B,)``; of its label, too."""
    return _own_shares(parameters, side, side).mean(dim=(1, 2))


def mix_labels(labels: Tensor, partner_labels: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """Mix labels ``(B,)`` as their clips are, by their own ``share``; float32 ``(B, K)``.

    A mixture with a clip that has no label has none itself: zeros.
    """
    known = (labels != UNLABELLED) & ((partner_labels != UNLABELLED) | (share == 1.0))
    own, other = (F.one_hot(part.clamp(min=0), num_classes) for part in (labels, partner_labels))
    mixed = share[:, None] * own + (1.0 - share[:, None]) * other
    return torch.where(known[:, None], mixed, 0.0)


def _own_shares(parameters: Tensor, height: int, width: int) -> Tensor:
    """Return the clip's own share of every pixel, float32 ``(B, H, W)``."""
    columns = parameters.long()[:, :, None, None].unbind(1)
    share, top, left, bottom, right = columns  # each (B, 1, 1)
    down = torch.arange(height, device=parameters.device)[:, None]
    across = torch.arange(width, device=parameters.device)
    inside = (_pixel(top, height) <= down) & (down < _pixel(bottom, height))
    inside = inside & (_pixel(left, width) <= across) & (across < _pixel(right, width))
    return torch.where(inside, 0.0, share / SHARE_STEPS)


def _pixel(edge: Tensor, side: int) -> Tensor:
    return (2 * edge * side + GRID) // (2 * GRID)  # to the nearest pixel
