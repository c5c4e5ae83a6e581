"""One training step and one prediction, in plain torch: no Ray, no files.

The recipe is that of DVFL-Net (arXiv 2507.12426) with its published defects mended: the loss is a
forward KL, gradients are clipped once before each step, every video of val is evaluated once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from dvflnet.losses import LossParts, weighted_loss, without_label
from dvflnet.mixing import Mixing
from pipeline.config.learning import OptimConfig
from pipeline.errors import ConfigError, TrainingDiverged
from pipeline.networks.forward import ClipNetwork
from pipeline.networks.recipe import Recipe
from pipeline.views.loader import ClipBatch
from pipeline.views.view import keyed_hash


@dataclass(frozen=True)
class StepResult:
    """The loss and its parts, the gradient norm before clipping, and the rate of one step."""

    loss: float
    distill_loss: float
    label_loss: float
    grad_norm: float
    lr: float


@dataclass(frozen=True)
class Schedule:
    """The learning rate over steps: linear warm-up, then the published cosine.

    As published the cosine is counted from step 0, so that the rate drops a little where the
    warm-up ends (7 % in the UCF101 recipe); golden values pin that.
    """

    peak: float
    floor: float
    warmup_steps: int
    num_steps: int

    def at(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.floor + step * (self.peak - self.floor) / self.warmup_steps
        done = min(step / self.num_steps, 1.0)
        return self.floor + 0.5 * (self.peak - self.floor) * (1.0 + math.cos(math.pi * done))


def build_schedule(
    optim: OptimConfig, *, global_batch_size: int, steps_per_epoch: float, num_steps: int
) -> Schedule:
    """Scale the configured rate to the global batch and lay it over the steps."""
    scale = global_batch_size / optim.lr_batch_size if optim.lr_batch_size else 1.0
    peak = optim.lr * scale
    return Schedule(
        peak=peak,
        floor=peak * optim.min_lr_fraction,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        num_steps=num_steps,
    )


class Training:
    """A network, its optimiser and its schedule.

    ``network`` is on ``device`` already, and may be wrapped for several workers.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, schedule: Schedule, device: torch.device
    ) -> None:
        self.network = network
        self.optimiser = build_optimiser(network, recipe.optim)
        self._recipe, self._schedule, self._device = recipe, schedule, device
        self._clips = ClipNetwork(network, device, recipe.train.precision, recipe.motion_only)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's tensors, under the names that they have without a wrapper."""
        network = self.network
        if isinstance(network, DistributedDataParallel):
            network = network.module
        return network.state_dict()

    def step(
        self,
        step: int,
        batch: ClipBatch,
        labels: Tensor,
        teacher_logits: Tensor | None,
        *,
        rank: int,
    ) -> StepResult:
        """Take one optimiser step; seed, step (from 0) and rank decide every random draw in it.

        Labels are int64 ``(B,)``, -1 for none, or of mixed clips float32 ``(B, K)``, zeros for
        none; the teacher's logits are float32 ``(B, K)``, and without these the network learns from
        labels alone. TrainingDiverged if loss or gradient is not finite, before the weights change.
        """
        # For drop path.
        torch.manual_seed(keyed_hash(self._recipe.train.seed, "step", step, rank) % 2**63)
        lr = self._schedule.at(step)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        set_training_mode(self.network)
        self.optimiser.zero_grad(set_to_none=True)
        count = self._recipe.train.accumulate
        done = []
        for number, part in enumerate(batch.parts(count) if count > 1 else (batch,), start=1):
            rows = slice((number - 1) * len(part.requests), number * len(part.requests))
            of_teacher = None if teacher_logits is None else teacher_logits[rows]
            with self._gathering_gradients(number == count), _memory_of(len(part.clips)):
                parts = self._forward(part, labels[rows], of_teacher)
                self._check_finite("loss", parts.loss, step, part)
                (parts.loss / count).backward()
            done.append([float(value.detach()) for value in parts])
        grad_norm = clip_grad_norm_(self.network.parameters(), self._recipe.optim.max_grad_norm)
        self._check_finite("gradient", grad_norm, step, batch)
        self.optimiser.step()
        loss, distill_loss, label_loss = (fmean(values) for values in zip(*done, strict=True))
        return StepResult(loss, distill_loss, label_loss, float(grad_norm), lr)

    def _gathering_gradients(self, last: bool) -> AbstractContextManager[None]:
        """Let several workers exchange gradients in the last batch of a step alone."""
        network = self.network
        if last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def predict(self, batch: ClipBatch) -> Tensor:
        """Return float32 logits ``(B, K)`` of a batch, in evaluation mode."""
        self.network.eval()
        with torch.inference_mode():
            return self._clips.logits(batch.frames, batch.jitter).float()

    def _forward(
        self, batch: ClipBatch, labels: Tensor, teacher_logits: Tensor | None
    ) -> LossParts:
        loss = self._recipe.loss
        return weighted_loss(
            self._clips.logits(batch.frames, batch.jitter, mixing_of(batch)),
            None if teacher_logits is None else teacher_logits.to(self._device),
            labels.to(self._device),
            distill_weight=loss.distill_weight,
            temperature=loss.temperature,
            label_smoothing=loss.label_smoothing,
            kind=loss.kind,
            standardise=loss.standardise,
            dkd_alpha=1.0 if loss.dkd_alpha is None else loss.dkd_alpha,
            dkd_beta=8.0 if loss.dkd_beta is None else loss.dkd_beta,
            some_unlabelled=bool(without_label(labels).any()),  # on the CPU still
        )

    def _check_finite(self, name: str, value: Tensor, step: int, batch: ClipBatch) -> None:
        if not torch.isfinite(value):
            samples = ", ".join(request.record.sample_id for request in batch.requests)
            raise TrainingDiverged(
                f"the {name} of step {step} is {float(value.detach())}; nothing was updated.\n"
                f"  Its batch: {samples}\n  Lower optim.lr, or train in float32."
            )


@contextmanager
def _memory_of(num_clips: int) -> Iterator[None]:
    """Say what to set when a GPU's memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a step of {num_clips} clips needs more memory than the GPU has: {error}\n  Halve "
            "train.batch_size and double train.accumulate, or set train.precision=bfloat16; either "
            "makes a new run."
        ) from error


def mixing_of(batch: ClipBatch) -> Mixing | None:
    if batch.mixing is None:
        return None
    return Mixing(*map(torch.from_numpy, (batch.mixing.partners, batch.mixing.parameters)))


def set_training_mode(network: nn.Module) -> None:
    """Set training mode, except in frozen parts, whose batch norms keep their statistics."""
    network.train()
    for module in network.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def build_optimiser(network: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimiser of what is not frozen; biases and other 1-D tensors do not decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if optim.kind == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    nesterov = optim.momentum > 0
    return torch.optim.SGD(
        groups, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov, fused=True
    )


def mean_results(rows: Sequence[StepResult]) -> dict[str, float]:
    """Average step results, under their MLflow names."""
    names = ("loss", "distill_loss", "label_loss", "grad_norm", "lr")
    return {f"train/{name}": sum(getattr(row, name) for row in rows) / len(rows) for name in names}
