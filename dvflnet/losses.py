"""The losses of a distillation step, and the published one, which is not the KL it claims to be.

``loss = w * distill_loss + (1 - w) * label_loss`` with w = ``distill_weight``: the architecture
figure of DVFL-Net (arXiv 2507.12426). A distill loss compares the distributions of teacher and
student at temperature T. Its factor T^2 (Hinton et al., arXiv 1503.02531) makes the size of the
gradient independent of T, so a ``distill_weight`` means the same at every T. Its kinds:

- forward_kl: KL(teacher || student); the student pays for all that the teacher holds possible.
- reverse_kl: KL(student || teacher); the student may leave out what it cannot learn (2306.08543).
- js: the Jensen-Shannon divergence, which lies between the two and is bounded (2306.13649).
- dkd: the two parts of the forward KL, label against the rest (``dkd_alpha``) and among the rest
  (``dkd_beta``), each with a weight of its own (2203.08679); needs labels.
- dist: 1 - Pearson's correlation of student and teacher, by clip over the classes and by class over
  the clips of the batch (2205.10536).
- published: has probabilities where log-probabilities belong, so it is negative, and not least at
  equality; here only to show that. Its source: hayatkhan8660-maker/DVFL-Net at c695f6a,
  classification/criterion.py.

With ``standardise`` the logits of each row have mean 0 and variance 1 first (2403.01427).
Logits are floating, ``(B, K)``; half types are computed in float32, float64 stays. A ValueError
names a setting that is out of range, and tensors that do not fit together.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

UNLABELLED = -1  # the label of a clip without one
Kind = Literal["forward_kl", "reverse_kl", "js", "dkd", "dist", "published"]


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
    kind: Kind = "forward_kl",
    standardise: bool = False,
    dkd_alpha: float = 1.0,
    dkd_beta: float = 8.0,
    some_unlabelled: bool = False,
) -> LossParts:
    """Return ``distill_weight * distill_loss + (1 - distill_weight) * label_loss`` and the parts.

    With ``distill_weight`` 0 the loss is the label part itself and the distill part is only for the
    log, so that a teacher's NaN reaches neither the loss nor a gradient. Without ``teacher_logits``
    the distill part is zero. With ``some_unlabelled`` the rows whose label is ``UNLABELLED``, or of
    soft labels nothing but zeros, have weight 1, the loss is the mean of all rows' losses, and the
    label part that of labelled rows.
    """
    if not 0.0 <= distill_weight <= 1.0:
        raise ValueError(f"distill_weight must be in [0, 1], got {distill_weight}")
    if teacher_logits is None and distill_weight > 0.0:
        raise ValueError(f"distill_weight {distill_weight} needs teacher_logits, got None")
    if some_unlabelled:
        if teacher_logits is None or kind == "dkd":
            raise ValueError(
                f"clips without a label need teacher_logits, and another kind than {kind}"
            )
        terms = distill_terms(
            student_logits,
            teacher_logits,
            temperature=temperature,
            kind=kind,
            standardise=standardise,
        )
        by_teacher = temperature**2 * terms.sum(dim=1)
        by_label = F.cross_entropy(
            _checked("student_logits", student_logits),
            labels,
            ignore_index=UNLABELLED,
            label_smoothing=label_smoothing,
            reduction="none",
        )
        labelled = ~without_label(labels)
        by_label = torch.where(labelled, by_label, 0.0)  # smoothing gives zeros a loss
        weight = torch.where(labelled, distill_weight, 1.0)
        loss = (weight * by_teacher + (1.0 - weight) * by_label).mean()
        return LossParts(loss, by_teacher.mean(), by_label.sum() / labelled.sum().clamp(min=1))
    label_part = label_loss(student_logits, labels, label_smoothing=label_smoothing)
    if teacher_logits is None:
        return LossParts(label_part, torch.zeros_like(label_part), label_part)
    terms = distill_terms(
        student_logits if distill_weight > 0.0 else student_logits.detach(),
        teacher_logits,
        labels,
        temperature=temperature,
        kind=kind,
        standardise=standardise,
        dkd_alpha=dkd_alpha,
        dkd_beta=dkd_beta,
    )
    distill_part = temperature**2 * (terms.sum() / len(terms))
    if distill_weight == 0.0:
        return LossParts(label_part, distill_part, label_part)
    loss = distill_weight * distill_part + (1.0 - distill_weight) * label_part
    return LossParts(loss, distill_part, label_part)


def without_label(labels: Tensor) -> Tensor:
    """Return which rows have no label, bool ``(B,)``."""
    return ~labels.any(dim=1) if labels.is_floating_point() else labels == UNLABELLED


def distill_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 * KL(teacher || student) at temperature T, the mean over the batch."""
    terms = distill_terms(student_logits, teacher_logits, temperature=temperature)
    return temperature**2 * (terms.sum() / len(terms))


def distill_terms(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float,
    kind: Kind = "forward_kl",
    standardise: bool = False,
    dkd_alpha: float = 1.0,
    dkd_beta: float = 8.0,
) -> Tensor:
    """Return the terms ``(B, C)`` of a distill loss; T^2 times a row's sum is that clip's loss.

    The part of ``dist`` over the clips is one number for the batch; every row carries it.
    ``labels`` are integers ``(B,)``, which ``dkd`` alone needs.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(get_args(Kind))}")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    pair = [_checked("student_logits", student_logits), _checked("teacher_logits", teacher_logits)]
    _check_same_shape("teacher_logits", teacher_logits, student_logits)
    if standardise:
        pair = [_standardised(logits) for logits in pair]
    student, teacher = (logits / temperature for logits in pair)
    if kind == "dkd":
        if labels is None or labels.is_floating_point():
            raise ValueError("dkd needs an integer label for every row")
        target, rest = _dkd_terms(student, teacher, labels[:, None].long())
        return torch.cat([dkd_alpha * target, dkd_beta * rest], dim=1)
    if kind == "dist":
        rows, columns = (_distance(student.softmax(1), teacher.softmax(1), dim) for dim in (1, 0))
        return torch.stack([rows, columns.mean().expand(len(rows))], dim=1)
    if kind == "published":  # NaN where a teacher's gap underflows: 0 * log 0
        soft_targets = teacher.softmax(dim=1)
        return soft_targets * (soft_targets.log() - student.softmax(dim=1))
    # Log-softmax on both sides keeps any gap between logits finite.
    student, teacher = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    if kind == "reverse_kl":
        return _kl_terms(student, teacher)
    if kind == "js":
        middle = torch.logaddexp(student, teacher) - math.log(2.0)
        return 0.5 * (_kl_terms(student, middle) + _kl_terms(teacher, middle))
    return _kl_terms(teacher, student)


def label_loss(student_logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Return the cross-entropy with smoothed labels, the mean over the batch.

    Smoothing by eps in [0, 1) turns a one-hot into 1 - eps + eps / K on the label and eps / K
    elsewhere. Labels are integers ``(B,)``, or floating mixtures of one-hots ``(B, K)`` such as
    mixup makes. Their range is checked on the CPU only: on an accelerator, looking at them would
    wait for all that is queued there.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    logits = _checked("student_logits", student_logits)
    if labels.is_floating_point():
        _check_same_shape("soft labels", labels, logits)
        return F.cross_entropy(logits, labels.to(logits.dtype), label_smoothing=label_smoothing)
    _check_labels(labels, *logits.shape)
    return F.cross_entropy(logits, labels.long(), label_smoothing=label_smoothing)


def _standardised(logits: Tensor) -> Tensor:
    """Move and scale each row to mean 0 and variance 1; a constant row becomes zeros."""
    exact = logits.double()  # else rounding would make something of a constant row
    centred = exact - exact.mean(dim=1, keepdim=True)
    return (math.sqrt(logits.shape[1]) * F.normalize(centred, dim=1)).to(logits.dtype)


def _kl_terms(reference: Tensor, other: Tensor) -> Tensor:
    """Return the terms of KL(reference || other) of log-probabilities."""
    return F.kl_div(other, reference, reduction="none", log_target=True)


def _dkd_terms(student: Tensor, teacher: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the terms of label against the rest, ``(B, 2)``, and among the rest."""
    rest = torch.arange(student.shape[1] - 1, device=labels.device)
    rest = rest + (rest >= labels).long()  # (B, K - 1), all classes but the label

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        others = logits.gather(1, rest)
        binary = torch.cat([logits.gather(1, labels), others.logsumexp(1, keepdim=True)], dim=1)
        return binary.log_softmax(dim=1), others.log_softmax(dim=1)

    return [_kl_terms(*pair) for pair in zip(split(teacher), split(student), strict=True)]


def _distance(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Return 1 - Pearson's correlation along a dimension."""
    student, teacher = (side - side.mean(dim=dim, keepdim=True) for side in (student, teacher))
    return 1.0 - F.cosine_similarity(student, teacher, dim=dim)


def _checked(name: str, logits: Tensor) -> Tensor:
    """Return logits in float32 or wider."""
    if logits.dim() != 2 or logits.numel() == 0 or not logits.is_floating_point():
        found = f"{tuple(logits.shape)} of {logits.dtype}"
        raise ValueError(f"{name} must be floating, (B, K) and not empty, got {found}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


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
