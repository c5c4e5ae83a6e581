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

from dvflnet.losses import LossParts, weighted_loss
from dvflnet.videofocalnet import VideoFocalNet
from pipeline.config.learning import OptimConfig
from pipeline.errors import ConfigError, TrainingDiverged
from pipeline.networks.forward import ClipNetwork
from pipeline.networks.recipe import Recipe
from pipeline.training.inputs import Inputs, step_inputs
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


@dataclass(frozen=True)
class _Launched:
    """A step that the device may still be at.

    ``values`` are three losses for each part of its batch, then the norm of the gradient.
    """

    step: int
    sample_ids: Sequence[str]
    lr: float
    values: Tensor

    def result(self, values: Sequence[float]) -> StepResult:
        *losses, grad_norm = values
        for name, value in (*(("loss", loss) for loss in losses[::3]), ("gradient", grad_norm)):
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"the {name} of step {self.step} is {value}; nothing was updated.\n"
                    f"  Its batch: {', '.join(self.sample_ids)}\n"
                    "  Lower optim.lr, or train in float32."
                )
        loss, distill_loss, label_loss = (fmean(losses[start::3]) for start in range(3))
        return StepResult(loss, distill_loss, label_loss, grad_norm, self.lr)


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
        self._launched: list[_Launched] = []
        # 1 after a loss or gradient that is not finite: fused optimisers then update nothing.
        self._diverged = torch.zeros((), device=device)
        inner = _unwrapped(network)
        if recipe.train.checkpoint_activations:
            assert isinstance(inner, VideoFocalNet)  # a config with another one is refused
            inner.checkpoint_activations()
        if recipe.train.compile:
            inner.compile()  # in place: tensors keep their names

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's tensors, under the names that they have without a wrapper."""
        return _unwrapped(self.network).state_dict()

    def step(
        self,
        step: int,
        batch: ClipBatch,
        labels: Tensor,
        teacher_logits: Tensor | None,
        *,
        rank: int,
    ) -> StepResult:
        """Take one optimiser step to its end; labels and logits are those of ``Inputs``."""
        count = self._recipe.train.accumulate
        parts = step_inputs(batch, labels, teacher_logits, num_parts=count)
        self.launch(step, [part.to(self._device) for part in parts], rank=rank)
        return self.results()[-1][1]

    def launch(self, step: int, parts: Sequence[Inputs], *, rank: int) -> None:
        """Give one optimiser step to the device, where the inputs are, and wait for nothing.

        Seed, step (from 0) and rank decide every random draw in it. A step whose loss or gradient
        is not finite changes no weight, and neither does any step after it.
        """
        # For drop path.
        torch.manual_seed(keyed_hash(self._recipe.train.seed, "step", step, rank) % 2**63)
        lr = self._schedule.at(step)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        set_training_mode(self.network)
        self.optimiser.zero_grad(set_to_none=True)
        done = []
        for number, part in enumerate(parts, start=1):
            with self._gathering_gradients(number == len(parts)), _explained(len(part.frames)):
                losses = self._forward(part)
                (losses.loss / len(parts)).backward()
            done.append(torch.stack(losses).detach())
        grad_norm = clip_grad_norm_(self.network.parameters(), self._recipe.optim.max_grad_norm)
        checked = torch.stack([*(losses[0] for losses in done), grad_norm])
        self._diverged = self._diverged.maximum((~checked.isfinite()).any().float())
        self.optimiser.found_inf = self._diverged  # type: ignore[attr-defined]
        self.optimiser.step()
        values = torch.cat([*done, grad_norm[None]])
        sample_ids = [sample_id for part in parts for sample_id in part.sample_ids]
        self._launched.append(_Launched(step, sample_ids, lr, values))

    def results(self) -> list[tuple[int, StepResult]]:
        """Wait for the steps that were launched since the last call.

        Returns the number of finished steps after each, and its result. TrainingDiverged if loss or
        gradient of one was not finite.
        """
        launched, self._launched = self._launched, []
        if not launched:
            return []
        rows = torch.stack([one.values for one in launched]).tolist()
        return [(one.step + 1, one.result(row)) for one, row in zip(launched, rows, strict=True)]

    def _gathering_gradients(self, last: bool) -> AbstractContextManager[None]:
        """Let several workers exchange gradients in the last batch of a step alone."""
        network = self.network
        if last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        return network.no_sync()

    def predict(self, batch: ClipBatch | Inputs) -> Tensor:
        """Return float32 logits ``(B, K)`` of a batch, in evaluation mode."""
        self.network.eval()
        with torch.inference_mode():
            return self._clips.logits(batch.frames, batch.jitter).float()

    def _forward(self, inputs: Inputs) -> LossParts:
        loss = self._recipe.loss
        return weighted_loss(
            self._clips.logits(inputs.frames, inputs.jitter, inputs.mixing),
            inputs.teacher_logits,
            inputs.labels,
            distill_weight=loss.distill_weight,
            temperature=loss.temperature,
            label_smoothing=loss.label_smoothing,
            kind=loss.kind,
            standardise=loss.standardise,
            dkd_alpha=1.0 if loss.dkd_alpha is None else loss.dkd_alpha,
            dkd_beta=8.0 if loss.dkd_beta is None else loss.dkd_beta,
            some_unlabelled=inputs.some_unlabelled,
        )


def _unwrapped(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network


@contextmanager
def _explained(num_clips: int) -> Iterator[None]:
    """Say what to set when a GPU's memory does not suffice, or the network cannot be compiled."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a step of {num_clips} clips needs more memory than the GPU has: {error}\n  Halve "
            "train.batch_size and double train.accumulate, or set train.precision=bfloat16; either "
            "makes a new run. train.checkpoint_activations=true does not."
        ) from error
    except RuntimeError as error:
        # By name: these modules take seconds to import, and are there once something is compiled.
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        first, _, _ = str(error).partition("\n")
        raise ConfigError(
            f"the network cannot be compiled here: {first}\n  It takes a C++ "
            "compiler, on a GPU Triton as well. Or set train.compile=false; that makes another run."
        ) from error


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
