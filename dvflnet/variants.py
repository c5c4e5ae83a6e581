"""The published sizes of Video-FocalNet, and the function that builds one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dvflnet.videofocalnet import VideoFocalNet


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
        drop_path_rate: drop-path rate of the last block; it grows linearly from 0 at the first.
        embed_dim: another width for the first stage, for smaller students than the published ones.
        depths: another number of blocks for each of the four stages.

    Raises:
        ValueError: on an unknown variant or on sizes that make no network.
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
