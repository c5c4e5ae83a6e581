"""The loss of a distillation step, and the published one, which is not the KL that it claims to be.

``loss = w * distill_loss + (1 - w) * label_loss`` with w = ``distill_weight``: the architecture
figure of DVFL-Net (arXiv 2507.12426), with the factor T^2 of Hinton et al. (arXiv 1503.02531).

Logits are floating, ``(B, K)``; half types are computed in float32, float64 stays. Every loss is a
scalar: a sum over the classes, a mean over the batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LossParts(NamedTuple):
    """The weighted sum and what it is made of, each a scalar."""

    loss: Tensor
    distill_loss: Tensor
    label_loss: Tensor


def weighted_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    distill_weight: float,
    temperature: float,
    label_smoothing: float,
    kind: Literal["forward_kl", "published"] = "forward_kl",
) -> LossParts:
    """Return ``distill_weight * distill_loss + (1 - distill_weight) * label_loss`` and the parts.

    With ``distill_weight`` 0 the loss is the label part itself and the distill part is only for the
    log, so that a teacher's NaN reaches neither the loss nor a gradient.

    Args:
        student_logits: ``(B, K)``.
        teacher_logits: ``(B, K)``, or None for a distill part of zero.
        labels: as in ``label_loss``.
        distill_weight: w in [0, 1].
        temperature: T > 0, of the distill part alone.
        label_smoothing: in [0, 1), of the label part alone.
        kind: ``published`` only shows the defect, see ``published_distill_loss``.

    Raises:
        ValueError: on a setting out of range, on tensors that do not fit together, or if there is a
            ``distill_weight`` and no teacher.
    """
    if not 0.0 <= distill_weight <= 1.0:
        raise ValueError(f"distill_weight must be in [0, 1], got {distill_weight}")
    if kind not in _DISTILL_LOSSES:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(_DISTILL_LOSSES)}")
    if teacher_logits is None and distill_weight > 0.0:
        raise ValueError(f"distill_weight {distill_weight} needs teacher_logits, got None")
    label_part = label_loss(student_logits, labels, label_smoothing=label_smoothing)
    if teacher_logits is None:
        return LossParts(label_part, torch.zeros_like(label_part), label_part)
    learner = student_logits if distill_weight > 0.0 else student_logits.detach()
    distill_part = _DISTILL_LOSSES[kind](learner, teacher_logits, temperature=temperature)
    if distill_weight == 0.0:
        return LossParts(label_part, distill_part, label_part)
    loss = distill_weight * distill_part + (1.0 - distill_weight) * label_part
    return LossParts(loss, distill_part, label_part)


def distill_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) of the distributions at temperature T.

    The teacher is the reference, so the student pays for every class that the teacher holds
    possible and it does not. Log-softmax on both sides keeps any gap between logits finite. T^2
    makes the size of the gradient independent of T, hence ``distill_weight`` as well.

    Raises:
        ValueError: on another shape or a temperature that is not positive.
    """
    _check_pair(student_logits, teacher_logits, temperature)
    student_log_probs = F.log_softmax(_widened(student_logits) / temperature, dim=1)
    teacher_log_probs = F.log_softmax(_widened(teacher_logits) / temperature, dim=1)
    divergence = F.kl_div(
        student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True
    )
    return temperature**2 * divergence


def published_distill_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> Tensor:
    """Return what the published code minimises, to show the defect and for nothing else.

    The student's probability stands where its log-probability belongs. So the value is negative,
    the gradient some K times too weak and not zero at equality, and the minimum a one-hot on the
    teacher's arg-max. Teacher gaps over some 104 * T make it NaN in float32 (0 * log 0).
    Source: ``classification/criterion.py`` in github.com/hayatkhan8660-maker/DVFL-Net at c695f6a.

    Raises:
        ValueError: on another shape or a temperature that is not positive.
    """
    _check_pair(student_logits, teacher_logits, temperature)
    student_probs = F.softmax(_widened(student_logits) / temperature, dim=1)
    soft_targets = F.softmax(_widened(teacher_logits) / temperature, dim=1)
    divergence = (soft_targets * (soft_targets.log() - student_probs)).sum(dim=1).mean()
    return temperature**2 * divergence


def label_loss(student_logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Return the cross-entropy with smoothed labels.

    Smoothing by eps turns a one-hot into 1 - eps + eps / K on the label and eps / K elsewhere.

    Args:
        student_logits: ``(B, K)``.
        labels: integer labels ``(B,)``, or floating mixtures of one-hots ``(B, K)`` such as mixup
            makes. The range of labels is checked on the CPU only: on an accelerator, looking at
            them would wait for all that is queued there.
        label_smoothing: eps in [0, 1).

    Raises:
        ValueError: on another shape, a label outside 0..K-1 or smoothing out of range.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    _check_logits("student_logits", student_logits)
    logits = _widened(student_logits)
    if labels.is_floating_point():
        _check_same_shape("soft labels", labels, logits)
        return F.cross_entropy(logits, labels.to(logits.dtype), label_smoothing=label_smoothing)
    _check_labels(labels, *logits.shape)
    return F.cross_entropy(logits, labels.long(), label_smoothing=label_smoothing)


_DISTILL_LOSSES = {"forward_kl": distill_loss, "published": published_distill_loss}


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_pair(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> None:
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    _check_logits("student_logits", student_logits)
    _check_logits("teacher_logits", teacher_logits)
    _check_same_shape("teacher_logits", teacher_logits, student_logits)


def _check_logits(name: str, logits: Tensor) -> None:
    if logits.dim() != 2 or logits.numel() == 0 or not logits.is_floating_point():
        found = f"{tuple(logits.shape)} of {logits.dtype}"
        raise ValueError(f"{name} must be floating, (B, K) and not empty, got {found}")


def _check_same_shape(name: str, tensor: Tensor, logits: Tensor) -> None:
    if tensor.shape != logits.shape:
        shapes = f"{tuple(logits.shape)}, got {tuple(tensor.shape)}"
        raise ValueError(f"{name} must have the shape of student_logits {shapes}")


def _check_labels(labels: Tensor, batch: int, num_classes: int) -> None:
    if labels.shape != (batch,):
        raise ValueError(f"labels must be ({batch},), got {tuple(labels.shape)}")
    if labels.device.type == "cpu" and ((labels < 0) | (labels >= num_classes)).any():
        found = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels must be in 0..{num_classes - 1}, got {found}")
