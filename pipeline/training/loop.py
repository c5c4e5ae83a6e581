"""One worker of a training run, teacher's or student's: its start, then steps, evaluation, report.

It knows no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dvflnet.metrics import evaluate_logits
from dvflnet.mixing import mix_labels, own_shares
from pipeline.config.schema import VideoLimits
from pipeline.logits.mirror import Mirror
from pipeline.networks.build import start_network
from pipeline.training.checkpoint import TrainingState
from pipeline.training.inputs import Inputs, new_frames, on_device, step_inputs
from pipeline.training.plan import open_plan_mirror
from pipeline.training.proof import audit
from pipeline.training.step import StepResult, Training, mean_results
from pipeline.training.train_plan import TrainPlan
from pipeline.views.loader import ClipBatch, ClipLoader
from pipeline.views.view import EVALUATION_VIEW

T = TypeVar("T")
SCORE = "score"  # the key in reports by which the best epoch is chosen
Points = list[tuple[int, dict[str, float]]]  # (finished steps, training metrics)


class Worker:
    """A worker that trains alone, keeps no checkpoints and reports to nobody.

    Those of stages and benchmarks override its methods.
    """

    rank = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, network: nn.Module) -> nn.Module:
        """Move the network to the device, and join it with those of the other workers."""
        return network.to(self.device)

    def say(self, text: str) -> None:
        """Show a text to the user."""

    def gather(self, value: T) -> list[T]:
        """Return the values of all workers, in the order of their ranks."""
        return [value]

    def advance(self, step: int) -> None:
        """Show that ``step`` steps are finished. It is called after every step, so it is cheap."""

    def report(self, epoch: EpochResult, training: Training) -> None:
        """Publish an evaluated epoch, with a checkpoint of the training. All workers call it."""


@dataclass(frozen=True)
class EpochResult:
    """The result of an evaluated epoch.

    ``seconds`` is the time of all ``step`` steps of the run, without evaluation; ``points`` are the
    metrics of training since the last report; ``val_logits`` is float32 ``(N, K)`` in the order of
    ``TrainPlan.val_rows``.
    """

    epoch: int
    step: int
    seconds: float
    points: Points
    val: dict[str, float]
    val_logits: Tensor

    def as_report(self) -> dict[str, Any]:
        """Return the part that goes to the driver: everything but the logits."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "points": self.points,
            "seconds": self.seconds,
            SCORE: self.score,
            **self.val,
        }

    @property
    def score(self) -> float:
        """Number of right answers on val, less a fraction that grows with NLL and breaks ties."""
        return self.val["val/top1"] * len(self.val_logits) - 1 + 1 / (1 + self.val["val/nll"])


def run_worker(plan: TrainPlan, worker: Worker, *, state: TrainingState | None = None) -> None:
    """Train to the end, from a checkpoint's state or else from the plan's first weights.

    WeightsMismatch if the weights that training starts from do not fit the network, and the errors
    of ``train``.
    """
    torch.set_num_threads(plan.config.cluster.worker_threads)
    torch.manual_seed(plan.recipe.train.seed)
    network = plan.build_network()
    if state is not None:
        network.load_state_dict(dict(state.weights))
    elif (report := start_network(network, plan.recipe.model)) is not None:
        worker.say(report.as_text())
    training = Training(worker.wrap(network), plan.recipe, plan.schedule, worker.device)
    if state is not None:
        training.optimiser.load_state_dict(state.optimiser)
    train(
        plan,
        training,
        worker,
        mirror=open_plan_mirror(plan),
        first_step=state.step if state else 0,
        seconds=state.seconds if state else 0.0,
    )


def train(
    plan: TrainPlan,
    training: Training,
    worker: Worker,
    *,
    mirror: Mirror | None,
    first_step: int = 0,
    seconds: float = 0.0,
) -> None:
    """Run the steps that are left, evaluating and reporting as the plan says.

    ``training`` is as it stands before ``first_step``, and ``seconds`` is the time that the steps
    before took. Without a ``mirror`` of the teacher's logits it learns from labels alone.

    ViewMismatch if an audited clip is not the one that the teacher saw, TrainingDiverged if a loss
    or gradient is not finite, VideoDecodeError if a video cannot be decoded any more.
    """
    settings, limits, device = plan.recipe.train, plan.config.dataset.limits, worker.device
    # A GPU is not waited for in between: it would stand still until it is given more.
    read_every = settings.log_every_steps if device.type == "cuda" else 1
    step, results = first_step, list[tuple[int, StepResult]]()
    side, memory = plan.recipe.side, partial(new_frames, device)
    with ClipLoader(settings.num_loaders, limits, side=side, new_frames=memory) as loader:
        batches = loader.batches(plan.train_requests(first_step, worker.rank))
        inputs = on_device(inputs_of(plan, batches, mirror if plan.replays else None), device)
        for epoch in plan.evaluated_epochs():
            started = time.monotonic()
            while step < plan.order.steps_until(epoch):
                training.launch(step, next(inputs), rank=worker.rank)
                step += 1
                if step % read_every == 0:
                    results += training.results()
                worker.advance(step)
            if step > first_step:
                results += training.results()
                seconds += time.monotonic() - started
                val_logits = evaluate(plan, training, loader, worker)
                val_labels = torch.tensor(plan.labels(plan.val_rows))
                of_teacher = None if mirror is None else val_teacher_logits(plan, mirror)
                metrics = evaluate_logits(val_logits, val_labels, of_teacher)
                val = {f"val/{name}": value for name, value in metrics.items()}
                mine = points_of(results, settings.log_every_steps)
                results.clear()
                points = mean_points(worker.gather(mine))
                worker.report(EpochResult(epoch, step, seconds, points, val, val_logits), training)


def inputs_of(
    plan: TrainPlan, batches: Iterator[ClipBatch], targets: Mirror | None
) -> Iterator[list[Inputs]]:
    """Join batches with their labels, and with the cached logits that their clips are proved by."""
    limits, num_parts = plan.config.dataset.limits, plan.recipe.train.accumulate
    for batch in batches:
        teacher_logits = None if targets is None else proven_targets(batch, targets, limits)
        yield step_inputs(batch, labels_of(plan, batch), teacher_logits, num_parts=num_parts)


def labels_of(plan: TrainPlan, batch: ClipBatch) -> Tensor:
    """Return the labels of a batch, int64 ``(B,)``, or of mixed clips float32 ``(B, K)``."""
    labels = torch.tensor(plan.labels([request.row for request in batch.requests]))
    if batch.mixing is None:
        return labels
    partners = [(request.partner or request).row for request in batch.requests]
    share = own_shares(torch.from_numpy(batch.mixing.parameters), plan.recipe.side)
    num_classes = len(plan.manifest.class_names)
    return mix_labels(labels, torch.tensor(plan.labels(partners)), share, num_classes)


def proven_targets(batch: ClipBatch, mirror: Mirror, limits: VideoLimits) -> Tensor:
    """Audit a batch and gather its cached teacher logits, float32 ``(B, K)``."""
    audit(batch, mirror, limits)
    rows = [request.row for request in batch.requests]
    view_indices = [request.view.view_index for request in batch.requests]
    return torch.from_numpy(mirror.teacher_logits(rows, view_indices))


def evaluate(plan: TrainPlan, training: Training, loader: ClipLoader, worker: Worker) -> Tensor:
    """Return the logits of every video of val, float32 ``(N, K)``, on all workers."""
    rows, parts = [], [torch.empty(0, len(plan.manifest.class_names))]
    for batch in loader.batches(plan.val_requests(worker.rank)):
        rows += [request.row for request in batch.requests]
        parts.append(training.predict(batch).cpu())
    # One tensor a worker: a row of a batch would be pickled with the whole batch.
    gathered = worker.gather((rows, torch.cat(parts)))
    all_rows = [row for rows, _ in gathered for row in rows]
    assert sorted(all_rows) == sorted(plan.val_rows), "every video of val counts exactly once"
    logits = torch.cat([part for _, part in gathered])
    place = {row: position for position, row in enumerate(all_rows)}
    return logits[[place[row] for row in plan.val_rows]]


def val_teacher_logits(plan: TrainPlan, mirror: Mirror) -> Tensor:
    """Return the teacher's logits of val from the store, float32 ``(N, K)``."""
    indices = [EVALUATION_VIEW] * len(plan.val_rows)
    return torch.from_numpy(mirror.teacher_logits(list(plan.val_rows), indices))


def points_of(results: Sequence[tuple[int, StepResult]], every: int) -> Points:
    """Average the results over groups of ``every`` steps; the last group may be shorter."""
    groups: dict[int, list[tuple[int, StepResult]]] = {}
    for step, result in results:
        groups.setdefault(-(-step // every), []).append((step, result))
    return [
        (group[-1][0], mean_results([result for _, result in group])) for group in groups.values()
    ]


def mean_points(parts: Sequence[Points]) -> Points:
    """Average the points of all workers, step by step."""
    return [
        (points[0][0], {name: fmean(values[name] for _, values in points) for name in points[0][1]})
        for points in zip(*parts, strict=True)
    ]
