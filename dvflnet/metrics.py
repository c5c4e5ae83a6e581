"""Metrics of logits, of student and teacher alike: accuracy, calibration, likeness to the teacher.

Letters: N rows, K classes. Everything is computed in float64 over all rows at once, so the numbers
do not depend on how the rows were batched. Equal logits rank by class number, lowest first, as
``argmax`` does: half-precision teacher logits tie often.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dvflnet.losses import distill_loss

NUM_CALIBRATION_BINS = 15


class CalibrationBins(NamedTuple):
    """Rows grouped by confidence, (0, 1/15] to (14/15, 1]: three sums, each ``(15,)``."""

    num_rows: Tensor
    confidence: Tensor
    correct: Tensor


def evaluate_logits(
    student_logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None
) -> dict[str, float]:
    """Return top1, top5, nll and ece by name; beside a teacher, agreement and kl_to_teacher, too.

    NLL is a mean in nats, and so is KL(teacher || student), at temperature 1. Logits are floating
    ``(N, K)``, labels integers ``(N,)`` in 0..K-1.

    Raises:
        ValueError: if shapes do not fit, a label is out of range or there is no row.
    """
    scores = {
        "top1": topk_accuracy(student_logits, labels, 1),
        "top5": topk_accuracy(student_logits, labels, 5),
        "nll": float(F.cross_entropy(student_logits.double(), labels.long())),
        "ece": ece(student_logits, labels),
    }
    if teacher_logits is not None:
        scores["agreement"] = agreement(student_logits, teacher_logits)
        divergence = distill_loss(student_logits.double(), teacher_logits.double(), temperature=1.0)
        scores["kl_to_teacher"] = float(divergence)
    return scores


def topk_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Return the share of rows whose label is among the k largest logits (all, if K < k)."""
    _check(logits, labels)
    ranked = logits.argsort(dim=1, descending=True, stable=True)
    return float((ranked[:, :k] == labels[:, None]).any(dim=1).double().mean())


def ece(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy.

    Source: Guo et al., arXiv 1706.04599, with 15 bins of equal width.
    """
    bins = calibration_bins(logits, labels)
    return float((bins.confidence - bins.correct).abs().sum() / len(labels))


def calibration_bins(logits: Tensor, labels: Tensor) -> CalibrationBins:
    """Sum rows, confidences (largest probability) and correct answers by confidence."""
    _check(logits, labels)
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    bins = (confidence * NUM_CALIBRATION_BINS).ceil().long().clamp(1, NUM_CALIBRATION_BINS) - 1

    def summed(values: Tensor) -> Tensor:
        return torch.bincount(bins, weights=values, minlength=NUM_CALIBRATION_BINS)

    correct = (predicted == labels).double()
    return CalibrationBins(summed(torch.ones_like(correct)), summed(confidence), summed(correct))


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Return the share of rows where student and teacher have the same arg-max."""
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise ValueError(f"student_logits and teacher_logits must have one shape, got {shapes}")
    same = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return float(same.double().mean())


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Count rows by label (first axis) and arg-max (second): ``(K, K)``, int64."""
    _check(logits, labels)
    num_classes = logits.shape[1]
    cells = labels.long() * num_classes + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or logits.numel() == 0 or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (N, K) and labels (N,) with N above 0, got {shapes}")
    num_classes = logits.shape[1]
    if ((labels < 0) | (labels >= num_classes)).any():
        found = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {found}")
