"""Measurements of exported files beside their network, and the model card that shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dvflnet.metrics import agreement, evaluate_logits
from pipeline.networks.trained import TrainedNetwork
from pipeline.results.costs import Latency, measure_latency
from pipeline.results.export.contract import Program, contract_of
from pipeline.text_table import markdown_table

NETWORK = "network"  # the row of the network itself, in PyTorch; the others are compared with it
MODEL_CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class Measured:
    """One file beside the network that it was made from, on the same clips."""

    max_difference: float  # of a logit
    agreement: float  # share of clips with the same arg-max
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
    """Compare a program's logits with the network's, both ``(N, K)``, and time it on one clip."""
    scores = evaluate_logits(logits, labels)
    clip = np.zeros((1, *clip_shape), np.uint8)
    return Measured(
        max_difference=float((logits - reference).abs().max()),
        agreement=agreement(logits, reference),
        top1=scores["top1"],
        nll=scores["nll"],
        latency=measure_latency(lambda: program(clip)),
    )


def export_table(files: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Measured]) -> str:
    """Lay the network and the files out as a Markdown table; files have their size and name."""
    header = ("file", "", "MB", "top-1", "NLL", "agreement", "max difference", "p50 ms", "p95 ms")
    lines = []
    for name, values in measured.items():
        file, megabytes, like, off = "(PyTorch)", "-", "-", "-"
        if name != NETWORK:
            file, megabytes = files[name]["file"], f"{files[name]['num_bytes'] / 1e6:.2f}"
            like, off = f"{values.agreement:.1%}", f"{values.max_difference:.1e}"
        scores = (f"{values.top1:.1%}", f"{values.nll:.3f}", like, off)
        latency = (f"{values.latency.p50_ms:.2f}", f"{values.latency.p95_ms:.2f}")
        lines.append((file, name, megabytes, *scores, *latency))
    return markdown_table(header, lines, align="<<>")


def model_card(trained: TrainedNetwork, facts: Mapping[str, str], table: str) -> str:
    """Write the card of an export, with facts about its data, lineage and quality by name."""
    said, class_names = contract_of(trained), trained.class_names
    names = "\n".join(f"{label}. {name}" for label, name in enumerate(class_names))
    lineage = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""# {said["name"]}

A video classifier: a Video-FocalNet student (arXiv 2507.12426, 2307.06947) that tells
{len(class_names)} classes apart.

## Input and output

- Input `{said["input"]}`
- Output `{said["output"]}`
- Frames: {said["frames"]}.
- Picture: {said["picture"]}.

Probabilities are the softmax of the logits. The same facts are inside each file: as metadata in
ONNX, as `contract.json` in .pt2, as the method `contract` in .pte.

## Files

{table}

Measured on all good videos of val, one evaluation view each. `max difference` is the largest one of
a logit, `agreement` the share of equal answers; both are beside the network in PyTorch, float32.
Latency is that of one clip on the machine that exported, without decoding.

## Where it comes from

{lineage}

## Classes

{names}

## Limits

- The figures hold for val of this data set. Nothing is known of other cameras, places or people.
- A clip that shows none of the classes gets one all the same: the softmax has no "none".
- int8 was calibrated with clips of train; other lighting may leave its ranges.
- The code is under the MIT licence. The weights may be bound by the licences of the videos and of
  the weights that the teacher started from.
"""
