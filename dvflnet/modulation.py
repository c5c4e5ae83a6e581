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

import torch.nn.functional as F
from torch import Tensor, nn

NUM_FOCAL_LEVELS = 2
NUM_GATES = NUM_FOCAL_LEVELS + 1  # one a level and one for the global context
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
        # Parameter names and their order are the published checkpoints'.
        self.f = nn.Linear(dim, 2 * dim + NUM_GATES)
        self.h = nn.Conv2d(dim, dim, kernel_size=1)
        self.proj = nn.Linear(dim, dim)
        self.focal_layers = nn.ModuleList(SpatialLevel(dim, level) for level in levels)
        self.f_temporal = nn.Linear(dim, dim + NUM_GATES)
        self.h_temporal = nn.Conv1d(dim, dim, kernel_size=1)
        self.focal_layers_temporal = nn.ModuleList(TemporalLevel(dim, level) for level in levels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, T, H, W, C)`` to the same shape."""
        dim = tokens.shape[-1]
        query, context, gates = _linear_in_parts(tokens, self.f, (dim, dim, NUM_GATES))
        modulated = query * self._spatial_modulator(context, gates)
        context, gates = _linear_in_parts(tokens, self.f_temporal, (dim, NUM_GATES))
        return self.proj(modulated * self._temporal_modulator(context, gates))

    def _spatial_modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        maps, gate_maps = (part.flatten(0, 1).permute(0, 3, 1, 2) for part in (context, gates))
        gathered = _gather(self.focal_layers, maps, gate_maps, (1, 2))  # (B*T, C, H, W)
        return _pointwise(gathered.permute(0, 2, 3, 1).reshape(context.shape), self.h)

    def _temporal_modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        lines, gate_lines = (part.flatten(2, 3).permute(0, 3, 1, 2) for part in (context, gates))
        gathered = _gather(self.focal_layers_temporal, lines, gate_lines, (1,))  # (B, C, T, H*W)
        return _pointwise(gathered.permute(0, 2, 3, 1).reshape(context.shape), self.h_temporal)


class SpatialLevel(nn.Sequential):
    """Context of one more ring of pixels: depthwise convolution, then GELU."""

    def __init__(self, dim: int, level: int) -> None:
        size = focal_kernel_size(level)
        conv = nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim, bias=False)
        super().__init__(conv, nn.GELU())


class TemporalLevel(nn.Sequential):
    """Context of two more frames: convolution, then GELU, on ``(B, C, T, H*W)``.

    Dense over channels, and so a third of all the model's multiply-adds.
    """

    def __init__(self, dim: int, level: int) -> None:
        size = focal_kernel_size(level)
        super().__init__(nn.Conv1d(dim, dim, size, padding=size // 2, bias=False), nn.GELU())

    def forward(self, lines: Tensor) -> Tensor:
        kernel: Tensor = self[0].weight  # type: ignore[assignment]  # (C, C, k)
        return F.gelu(F.conv2d(lines, kernel.unsqueeze(-1), padding=(kernel.shape[-1] // 2, 0)))


def _gather(
    layers: nn.ModuleList, context: Tensor, gates: Tensor, averaged_dims: tuple[int, ...]
) -> Tensor:
    """Sum the context of every level, and of all there is, each weighted by its gate.

    ``context`` is ``(N, C, X, Y)`` and ``gates`` ``(N, L+1, X, Y)``, both in channels-last memory;
    levels are chained, each reads the one before. ``averaged_dims`` count in the order of memory,
    ``(N, X, Y, C)``: in the other order PyTorch writes the mean scattered, and 17 times as slowly.
    """
    first_layer, *layers_after = layers
    first_gate, *gates_between, last_gate = gates.split(1, dim=1)  # each (N, 1, X, Y)
    context = first_layer(context)
    gathered = context * first_gate
    for layer, gate in zip(layers_after, gates_between, strict=True):
        context = layer(context)
        gathered.addcmul_(context, gate)  # in place: autograd needs the factors, not the sum
    mean = context.permute(0, 2, 3, 1).mean(averaged_dims, keepdim=True).permute(0, 3, 1, 2)
    return gathered.addcmul_(F.gelu(mean), last_gate)


def _linear_in_parts(tokens: Tensor, layer: nn.Linear, sizes: Sequence[int]) -> list[Tensor]:
    weights, biases = layer.weight.split(sizes), layer.bias.split(sizes)
    return [F.linear(tokens, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _pointwise(tokens: Tensor, conv: nn.Conv1d | nn.Conv2d) -> Tensor:
    """Apply a kernel-1 convolution to channels-last tokens."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)
