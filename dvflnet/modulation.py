"""Spatio-temporal focal modulation: the one layer that makes a Video-FocalNet.

Source: Video-FocalNets (arXiv 2307.06947), section 3.2; the student of DVFL-Net (arXiv 2507.12426)
uses the same layer. Letters: B batch, T frames, H, W, C channels, L focal levels.

What differs from the published module, with equal parameters and equal outputs:

- Tokens stay channels-last, ``(B, T, H, W, C)``, from the stem to the head. The temporal
  ``Conv1d`` over ``(B*H*W, C, T)`` is computed as a ``(k, 1)`` convolution over ``(B, C, T, H*W)``,
  and the 1x1 convolutions as linears, so nothing is ever transposed in memory.
- The joint projection is applied part by part, so that query and context are contiguous.
- The number of frames is read from the input, and nothing is kept on ``self`` by ``forward``:
  the published code stores gates and modulators there, which holds 40 MiB a clip and breaks
  ``copy.deepcopy`` after a training step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_FOCAL_LEVELS = 2
FIRST_FOCAL_WINDOW = 3


def focal_kernel_size(level: int) -> int:
    """Return the kernel length of a focal level (3, then 5), the same in space and in time."""
    return FIRST_FOCAL_WINDOW + 2 * level


class FocalModulation(nn.Module):
    """Modulate every token by its surroundings in space and, separately, in time.

    ``proj(query * spatial_modulator * temporal_modulator)``: a product of three, with linear gates
    and no softmax, so bf16 is the safer autocast type (the range matters, not the mantissa).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        levels = range(NUM_FOCAL_LEVELS)
        num_gates = NUM_FOCAL_LEVELS + 1  # one a level and one for the global context
        # Parameter names and their order are the published checkpoints'.
        self.f = nn.Linear(dim, 2 * dim + num_gates)
        self.h = nn.Conv2d(dim, dim, kernel_size=1)
        self.proj = nn.Linear(dim, dim)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(_depthwise_conv(dim, focal_kernel_size(level)), nn.GELU())
            for level in levels
        )
        self.f_temporal = nn.Linear(dim, dim + num_gates)
        self.h_temporal = nn.Conv1d(dim, dim, kernel_size=1)
        self.focal_layers_temporal = nn.ModuleList(
            nn.Sequential(_dense_temporal_conv(dim, focal_kernel_size(level)), nn.GELU())
            for level in levels
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, T, H, W, C)`` to the same shape."""
        dim = tokens.shape[-1]
        num_gates = NUM_FOCAL_LEVELS + 1
        query, context, gates = _linear_in_parts(tokens, self.f, (dim, dim, num_gates))
        modulated = query * self._spatial_modulator(context, gates)
        context, gates = _linear_in_parts(tokens, self.f_temporal, (dim, num_gates))
        return self.proj(modulated * self._temporal_modulator(context, gates))

    def _spatial_modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        shape = context.shape
        maps = context.flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, C, H, W), channels-last memory
        gate_maps = gates.flatten(0, 1).permute(0, 3, 1, 2)  # (B*T, L+1, H, W)
        gathered = torch.zeros_like(maps)
        for level, layer in enumerate(self.focal_layers):
            maps = layer(maps)
            gathered = torch.addcmul(gathered, maps, gate_maps[:, level : level + 1])
        everywhere = F.gelu(maps.mean((2, 3), keepdim=True))
        gathered = torch.addcmul(gathered, everywhere, gate_maps[:, NUM_FOCAL_LEVELS:])
        return _pointwise(gathered.permute(0, 2, 3, 1).reshape(shape), self.h)

    def _temporal_modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        shape = context.shape
        lines = context.flatten(2, 3).permute(0, 3, 1, 2)  # (B, C, T, H*W), channels-last memory
        gate_lines = gates.flatten(2, 3).permute(0, 3, 1, 2)  # (B, L+1, T, H*W)
        gathered = torch.zeros_like(lines)
        for level, layer in enumerate(self.focal_layers_temporal):
            kernel = layer.get_parameter("0.weight").unsqueeze(-1)  # (C, C, k, 1), time first
            padding = (focal_kernel_size(level) // 2, 0)
            lines = F.gelu(F.conv2d(lines, kernel, padding=padding))
            gathered = torch.addcmul(gathered, lines, gate_lines[:, level : level + 1])
        always = F.gelu(lines.mean(2, keepdim=True))
        gathered = torch.addcmul(gathered, always, gate_lines[:, NUM_FOCAL_LEVELS:])
        return _pointwise(gathered.permute(0, 2, 3, 1).reshape(shape), self.h_temporal)


def _depthwise_conv(dim: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False)


def _dense_temporal_conv(dim: int, kernel_size: int) -> nn.Conv1d:
    """Hold the weights only; dense over channels, hence a third of all the model's MACs."""
    return nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, bias=False)


def _linear_in_parts(tokens: Tensor, layer: nn.Linear, sizes: Sequence[int]) -> list[Tensor]:
    weights, biases = layer.weight.split(sizes), layer.bias.split(sizes)
    return [F.linear(tokens, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _pointwise(tokens: Tensor, conv: nn.Conv1d | nn.Conv2d) -> Tensor:
    """Apply a kernel-1 convolution to channels-last tokens."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)
