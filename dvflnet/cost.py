"""Costs of a network: parameters, and multiply-accumulates (MACs) of one clip.

MACs are counted from the operations, not from a formula, on PyTorch's meta device, where tensors
have a shape and no content.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

FLOPS_PER_MAC = 2


def count_parameters(model: nn.Module) -> int:
    """Count the trainable and frozen numbers of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, *, num_frames: int, side: int) -> int:
    """Count the MACs of one clip in matrix products and convolutions, as papers count them.

    ``model`` takes normalised clips ``(B, T, 3, side, side)``; it is left as it is.
    """
    tensors = (*model.named_parameters(), *model.named_buffers())
    state = {name: tensor.to("meta") for name, tensor in tensors}
    clip = torch.empty((1, num_frames, 3, side, side), device="meta")  # (B, T, C, H, W)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(model, state, (clip,))
    return counter.get_total_flops() // FLOPS_PER_MAC
