"""What an exported file is worth: how near it is to the network, how often right, how fast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dvflnet.metrics import agreement, evaluate_logits
from pipeline.results.export.formats import Program
from pipeline.results.latency import Latency, measure_latency

NETWORK = "network"  # the row that all others are compared with: the network itself, in PyTorch


@dataclass(frozen=True)
class Measured:
    """One file beside the network that it was made from, on the same clips.

    ``max_difference`` is the largest one of a logit, ``agreement`` the share of equal answers.
    """

    max_difference: float
    agreement: float
    top1: float
    nll: float
    latency: Latency  # of one clip


def logits_of(
    programs: Mapping[str, Program], batches: Iterable[npt.NDArray[np.uint8]]
) -> dict[str, Tensor]:
    """Run all programs over the same batches of clips; return float32 logits ``(N, K)`` of each."""
    parts: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in programs}
    for clips in batches:
        for name, program in programs.items():
            parts[name].append(program(clips))
    return {name: torch.from_numpy(np.concatenate(found)) for name, found in parts.items()}


def measure(
    program: Program,
    logits: Tensor,
    reference: Tensor,
    labels: Tensor,
    clip_shape: tuple[int, int, int, int],
) -> Measured:
    """Compare a program's logits with the network's, and time it on one clip.

    Args:
        program: to time.
        logits: float32 ``(N, K)``, the program's.
        reference: float32 ``(N, K)``, the network's.
        labels: int64 ``(N,)``.
        clip_shape: ``(T, H, W, 3)``.

    """
    scores = evaluate_logits(logits, labels)
    clip = np.zeros((1, *clip_shape), np.uint8)
    return Measured(
        max_difference=float((logits - reference).abs().max()),
        agreement=agreement(logits, reference),
        top1=scores["top1"],
        nll=scores["nll"],
        latency=measure_latency(lambda: program(clip)),
    )
