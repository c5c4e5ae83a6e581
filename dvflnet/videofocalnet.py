"""Video-FocalNet, the teacher (base) and the student (nano, "VFL-Net") of DVFL-Net.

Papers: Video-FocalNets, arXiv 2307.06947; DVFL-Net, arXiv 2507.12426 (student sizes, section 3).
Published code: github.com/TalalWasim/Video-FocalNets, github.com/hayatkhan8660-maker/DVFL-Net.

What differs from the published networks (state-dict keys, shapes and outputs are the same):

- channels-last tokens throughout, see ``dvflnet.modulation``;
- drop path is drawn once for a clip, not for each of its frames: dropping frames one by one puts
  flicker into the temporal branch and makes the result depend on how clips are batched;
- switches that no published configuration uses (layer scale, post-norm, conv embedding, tubelets)
  are not here.

Frames meet only in the temporal branch of each modulation and in the last mean. There is no
positional embedding, so any T and any H, W of at least 32 will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dvflnet.modulation import FocalModulation

PATCH_SIZE = 4
NUM_STAGES = 4
MLP_RATIO = 4
MIN_SIDE = PATCH_SIZE * 2 ** (NUM_STAGES - 1)  # 32: a smaller frame has no token left at the end


@dataclass(frozen=True)
class Variant:
    """Width of the first stage (it doubles from stage to stage) and blocks in each stage."""

    embed_dim: int
    depths: tuple[int, int, int, int]


VARIANTS = {
    # nano is the student of DVFL-Net; base is the teacher.
    "nano": Variant(embed_dim=96, depths=(1, 1, 2, 1)),
    "tiny": Variant(embed_dim=96, depths=(2, 2, 6, 2)),
    "small": Variant(embed_dim=96, depths=(2, 2, 18, 2)),
    "base": Variant(embed_dim=128, depths=(2, 2, 18, 2)),
}


class DropPath(nn.Module):
    """Skip a residual branch for whole clips, and scale the kept ones by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return branch
        kept = branch.new_empty((branch.shape[0], 1, 1, 1, 1)).bernoulli_(1.0 - self.rate)
        return branch * (kept / (1.0 - self.rate))


class Mlp(nn.Module):
    """Two linears with an exact (erf) GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Pre-norm residual block: focal modulation, then MLP."""

    def __init__(self, dim: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.modulation = FocalModulation(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.modulation(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class PatchEmbed(nn.Module):
    """Cut every frame into patches: strided convolution, then LayerNorm."""

    def __init__(self, in_dim: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map ``(B, T, H, W, C)`` to ``(B, T, H/p, W/p, dim)``."""
        maps = self.proj(tokens.flatten(0, 1).permute(0, 3, 1, 2))
        return self.norm(maps.permute(0, 2, 3, 1).unflatten(0, tokens.shape[:2]))


class Stage(nn.Module):
    """Blocks of one width, then the step down to half the sides and twice the width."""

    def __init__(self, dim: int, drop_path_rates: Sequence[float], *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, rate) for rate in drop_path_rates)
        self.downsample = None if last else PatchEmbed(dim, 2 * dim, patch_size=2)
        self.checkpoint_blocks = False

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens if self.downsample is None else self.downsample(tokens)


class VideoFocalNet(nn.Module):
    """Classify clips. Build it with :func:`dvflnet.build_model`."""

    def __init__(
        self,
        *,
        num_classes: int,
        num_frames: int,
        embed_dim: int,
        depths: Sequence[int],
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        counts = {"num_classes": num_classes, "num_frames": num_frames, "embed_dim": embed_dim}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if len(depths) != NUM_STAGES or min(depths) < 1:
            raise ValueError(
                f"depths must be {NUM_STAGES} counts of at least 1, got {tuple(depths)}"
            )
        if not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")
        self.num_classes = num_classes
        self.num_frames = num_frames
        self.num_features = embed_dim * 2 ** (NUM_STAGES - 1)  # C4, of the pooled features
        self.patch_embed = PatchEmbed(3, embed_dim, PATCH_SIZE)
        steps = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * block / steps for block in range(sum(depths))])
        self.layers = nn.ModuleList(
            Stage(
                embed_dim * 2**stage,
                [next(rates) for _ in range(depth)],
                last=stage == NUM_STAGES - 1,
            )
            for stage, depth in enumerate(depths)
        )
        self.norm = nn.LayerNorm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes)
        self.apply(_init_linear)

    def checkpoint_activations(self) -> None:
        """From now on keep only the inputs of blocks for the backward pass, which runs them again.

        Gradients are the same to the last bit, drop path included.
        """
        for stage in self.layers:
            assert isinstance(stage, Stage)
            stage.checkpoint_blocks = True

    def forward(self, clip: Tensor) -> Tensor:
        """Map normalised clips ``(B, T, 3, H, W)`` to logits ``(B, K)``.

        Under autocast the head's product stays in float32: bfloat16 has three digits, too few for
        the differences between logits.

        Raises:
            ValueError: if the clip has another layout or a side under 32 pixels.
        """
        features, device = self.forward_features(clip), clip.device.type
        # Costs are counted on the meta device, which has no autocast.
        if device == "meta" or not torch.is_autocast_enabled(device):
            return self.head(features)
        with torch.autocast(device, enabled=False):
            return self.head(features.float())

    def forward_features(self, clip: Tensor) -> Tensor:
        """Map normalised clips ``(B, T, 3, H, W)`` to pooled features ``(B, C4)``."""
        if clip.dim() != 5 or clip.shape[2] != 3:
            raise ValueError(f"expected a clip (B, T, 3, H, W), got shape {tuple(clip.shape)}")
        if min(clip.shape[3:]) < MIN_SIDE:
            sides = tuple(clip.shape[3:])
            raise ValueError(f"a clip needs sides of at least {MIN_SIDE} pixels, got {sides}")
        tokens = self.patch_embed(clip.permute(0, 1, 3, 4, 2))  # (B, T, H/4, W/4, C1)
        for stage in self.layers:
            tokens = stage(tokens)
        return self.norm(tokens).mean((2, 3)).mean(1)  # (B, C4)


def build_model(
    variant: str,
    num_classes: int,
    num_frames: int = 8,
    drop_path_rate: float = 0.0,
    *,
    embed_dim: int | None = None,
    depths: Sequence[int] | None = None,
) -> VideoFocalNet:
    """Build a freshly initialised Video-FocalNet.

    Args:
        variant: ``nano``, ``tiny``, ``small`` or ``base``.
        num_classes: width K of the head.
        num_frames: frames of the clips it is meant for. Recorded on the model; the weights do not
            depend on it and ``forward`` takes any T.
        drop_path_rate: that of the last block; it grows linearly from 0 at the first.
        embed_dim: another width for the first stage than the published one.
        depths: other numbers of blocks for the four stages.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    sizes = VARIANTS[variant]
    return VideoFocalNet(
        num_classes=num_classes,
        num_frames=num_frames,
        embed_dim=sizes.embed_dim if embed_dim is None else embed_dim,
        depths=sizes.depths if depths is None else tuple(depths),
        drop_path_rate=drop_path_rate,
    )


def _init_linear(module: nn.Module) -> None:
    """Initialise as published: linears here, convolutions as PyTorch does by default."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
