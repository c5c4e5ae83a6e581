"""The numeric mode of cached forward passes: set in one place, and recorded in the seal."""

from __future__ import annotations

from typing import Any

import torch

from pipeline.config.experiment import ExperimentConfig


def pin_numerics() -> None:
    """Make this process compute the same logits on every GPU of one kind, each time.

    As torch starts, cuDNN rounds the factors of float32 convolutions to TF32, ten bits, and may
    take kernels that add in any order; benchmarking takes those that were fastest by chance.
    """
    # The first is for what a network from elsewhere may have set. Without the older switches after
    # it torch.export raises, which still asks for them.
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def numerics_of(config: ExperimentConfig) -> dict[str, Any]:
    """Describe the mode that an experiment's teacher runs in, as plain JSON values."""
    return {
        "device": "cuda" if config.cluster.use_gpu else "cpu",
        "precision": config.teacher.precision,
        "tf32": False,
    }
