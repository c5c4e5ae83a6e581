"""Video-FocalNet in its published formulation, as the yardstick for ours. Not for use.

Written anew from the description of the method (arXiv 2307.06947) and of the published code: frames
are folded into the batch, maps are channels-first, the temporal branch is a ``Conv1d`` over
``(B*H*W, C, T)``, kernel-1 convolutions are convolutions, query, context and gates leave one joint
projection and are cut from it, and gates and modulators stay on the module after ``forward``. Its
cost is what is measured, so none of that is tidied.

Letters: B batch, T frames, N = B*T, H, W, C channels, L focal levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvflnet.modulation import NUM_FOCAL_LEVELS, NUM_GATES, focal_kernel_size
from dvflnet.videofocalnet import MLP_RATIO, NUM_STAGES, PATCH_SIZE, VARIANTS


class PublishedModulation(nn.Module):
    """Map ``(N, H, W, C)`` to the same shape."""

    def __init__(self, dim: int, num_frames: int) -> None:
        super().__init__()
        self.num_frames = num_frames
        sizes = [focal_kernel_size(level) for level in range(NUM_FOCAL_LEVELS)]
        self.f = nn.Linear(dim, 2 * dim + NUM_GATES)
        self.h = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, size, padding=size // 2, groups=dim, bias=False), nn.GELU()
            )
            for size in sizes
        )
        self.f_temporal = nn.Linear(dim, dim + NUM_GATES)
        self.h_temporal = nn.Conv1d(dim, dim, 1)
        self.focal_layers_temporal = nn.ModuleList(
            nn.Sequential(nn.Conv1d(dim, dim, size, padding=size // 2, bias=False), nn.GELU())
            for size in sizes
        )

    def forward(self, tokens: Tensor) -> Tensor:
        num_maps, height, width, dim = tokens.shape
        lines = tokens.unflatten(0, (-1, self.num_frames)).permute(0, 2, 3, 1, 4)
        lines = self.f_temporal(lines.reshape(-1, self.num_frames, dim))  # (B*H*W, T, C + L+1)
        context, self.gates_temporal = (
            lines.permute(0, 2, 1).contiguous().split((dim, NUM_GATES), dim=1)
        )
        gathered = _gather(self.focal_layers_temporal, context, self.gates_temporal, (2,))
        lines = self.h_temporal(gathered).unflatten(0, (-1, height, width))  # (B, H, W, C, T)
        self.modulator_temporal = lines.permute(0, 4, 3, 1, 2).reshape(num_maps, dim, height, width)

        maps = self.f(tokens).permute(0, 3, 1, 2).contiguous()  # (N, 2C + L+1, H, W)
        query, context, self.gates = maps.split((dim, dim, NUM_GATES), dim=1)
        self.modulator = self.h(_gather(self.focal_layers, context, self.gates, (2, 3)))
        product = query * self.modulator * self.modulator_temporal
        return self.proj(product.permute(0, 2, 3, 1).contiguous())


class PublishedBlock(nn.Module):
    """Map tokens ``(N, H*W, C)`` to the same shape; drop path is left out."""

    def __init__(self, dim: int, num_frames: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.modulation = PublishedModulation(dim, num_frames)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(dim, MLP_RATIO * dim), "fc2": nn.Linear(MLP_RATIO * dim, dim)}
        )

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        modulated = self.modulation(self.norm1(tokens).unflatten(1, (height, width)))
        tokens = tokens + modulated.flatten(1, 2)
        return tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))


class PublishedPatchEmbed(nn.Module):
    """Map ``(N, C, H, W)`` to tokens and their height and width."""

    def __init__(self, in_dim: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, maps: Tensor) -> tuple[Tensor, int, int]:
        maps = self.proj(maps)
        return self.norm(maps.flatten(2).transpose(1, 2)), maps.shape[2], maps.shape[3]


class PublishedStage(nn.Module):
    """Blocks, then the step down."""

    def __init__(self, dim: int, depth: int, num_frames: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PublishedBlock(dim, num_frames) for _ in range(depth))
        self.downsample = None if last else PublishedPatchEmbed(dim, 2 * dim, 2)

    def forward(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor, int, int]:
        for block in self.blocks:
            tokens = block(tokens, height, width)
        if self.downsample is None:
            return tokens, height, width
        maps = tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
        downsampled: tuple[Tensor, int, int] = self.downsample(maps)
        return downsampled


class PublishedVideoFocalNet(nn.Module):
    """Map normalised clips ``(B, T, 3, H, W)``, of this very T, to logits ``(B, K)``."""

    def __init__(
        self, *, num_classes: int, num_frames: int, embed_dim: int, depths: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.patch_embed = PublishedPatchEmbed(3, embed_dim, PATCH_SIZE)
        self.layers = nn.ModuleList(
            PublishedStage(embed_dim * 2**stage, depth, num_frames, last=stage == NUM_STAGES - 1)
            for stage, depth in enumerate(depths)
        )
        num_features = embed_dim * 2 ** (NUM_STAGES - 1)
        self.norm = nn.LayerNorm(num_features)
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        tokens, height, width = self.patch_embed(clip.flatten(0, 1))
        for stage in self.layers:
            tokens, height, width = stage(tokens, height, width)
        pooled = self.norm(tokens).mean(1).unflatten(0, (-1, self.num_frames))  # (B, T, C4)
        return self.head(pooled.mean(1))


def build_published(variant: str, num_classes: int, num_frames: int) -> PublishedVideoFocalNet:
    """Build a variant; it takes the state dict of ``dvflnet.build_model`` with the same sizes."""
    sizes = VARIANTS[variant]
    return PublishedVideoFocalNet(
        num_classes=num_classes,
        num_frames=num_frames,
        embed_dim=sizes.embed_dim,
        depths=sizes.depths,
    )


def _gather(
    layers: nn.ModuleList, context: Tensor, gates: Tensor, global_dims: tuple[int, ...]
) -> Tensor:
    gathered = torch.zeros((), dtype=context.dtype, device=context.device)
    for level, layer in enumerate(layers):
        context = layer(context)
        gathered = gathered + context * gates[:, level : level + 1]
    everything = F.gelu(context.mean(global_dims, keepdim=True))
    return gathered + everything * gates[:, NUM_FOCAL_LEVELS:]
