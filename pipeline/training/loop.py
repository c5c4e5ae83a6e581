"""The training loop of one worker: steps, evaluation, report. Teacher and student share it.

No Ray in here. The stage gives every worker its place among the others; a benchmark that wants the
bare loop gives it a place of its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from dvflnet.metrics import evaluate_logits
from pipeline.config.schema import VideoLimits
from pipeline.logits.mirror import Mirror
from pipeline.training.plan import TrainPlan
from pipeline.training.proof import audit
from pipeline.training.step import StepResult, Training, mean_results
from pipeline.views.loader import ClipBatch, ClipLoader
from pipeline.views.view import EVALUATION_VIEW

T = TypeVar("T")
Points = list[tuple[int, dict[str, float]]]  # (finished steps, training metrics)


class Place(Protocol):
    """A worker's place among all workers."""

    rank: int

    def gather(self, value: T) -> list[T]:
        """Return the values of all workers, in the order of their ranks."""
        ...

    def advance(self, step: int) -> None:
        """Say that so many steps are finished. Cheap; called after every step."""
        ...

    def report(self, epoch: EpochResult) -> None:
        """Publish an evaluated epoch, with a checkpoint. All workers call it."""
        ...


@dataclass(frozen=True)
class EpochResult:
    """What is known after an epoch was evaluated.

    ``points`` are (step, training metrics) since the last report and ``seconds`` the time that
    those steps took; ``val_logits`` is float32 ``(N, K)`` in the order of ``TrainPlan.val_rows``.
    """

    epoch: int
    step: int
    seconds: float
    points: Points
    val: dict[str, float]
    val_logits: Tensor


@dataclass
class StepLog:
    """Step results since the last report, as points every so many steps."""

    every: int
    points: Points = field(default_factory=list)
    _results: list[StepResult] = field(default_factory=list)

    def add(self, step: int, result: StepResult) -> None:
        """Add a result; ``step`` counts finished steps."""
        self._results.append(result)
        if step % self.every == 0:
            self.points.append((step, mean_results(self._results)))
            self._results.clear()

    def take(self, step: int) -> Points:
        """Return all points up to ``step`` and start anew."""
        if self._results:
            self.points.append((step, mean_results(self._results)))
        taken = list(self.points)
        self.points.clear()
        self._results.clear()
        return taken


def train(
    plan: TrainPlan, training: Training, place: Place, *, mirror: Mirror | None, first_step: int = 0
) -> None:
    """Run the steps that are left, evaluating and reporting as the plan says.

    Args:
        plan: of the run.
        training: network, optimiser and schedule, at ``first_step``.
        place: of this worker.
        mirror: the teacher's logits and proofs; none to learn from labels alone.
        first_step: how many steps are done already.

    Raises:
        ViewMismatch: if an audited clip is not the one that the teacher saw.
        TrainingDiverged: if a loss or gradient is not finite.
        VideoDecodeError: if a video cannot be decoded any more.

    """
    settings, limits = plan.recipe.train, plan.config.dataset.limits
    step, log = first_step, StepLog(settings.log_every_steps)
    with ClipLoader(settings.num_loaders, limits, side=plan.recipe.side) as loader:
        batches = loader.batches(plan.train_requests(first_step, place.rank))
        for epoch in plan.evaluated_epochs():
            started = time.monotonic()
            while step < plan.order.steps_until(epoch):
                batch = next(batches)
                labels = torch.tensor(plan.labels([request.row for request in batch.requests]))
                teacher_logits = None if mirror is None else proven_targets(batch, mirror, limits)
                result = training.step(step, batch, labels, teacher_logits, rank=place.rank)
                step += 1
                log.add(step, result)
                place.advance(step)
            if step > first_step:
                seconds = time.monotonic() - started
                val_logits = evaluate(plan, training, loader, place)
                val = val_metrics(plan, val_logits, mirror)
                points = mean_points(place.gather(log.take(step)))
                place.report(EpochResult(epoch, step, seconds, points, val, val_logits))


def proven_targets(batch: ClipBatch, mirror: Mirror, limits: VideoLimits) -> Tensor:
    """Audit a batch and gather its cached teacher logits, float32 ``(B, K)``."""
    audit(batch, mirror, limits)
    rows, view_indices = _coordinates(batch)
    return torch.from_numpy(mirror.teacher_logits(rows, view_indices))


def evaluate(plan: TrainPlan, training: Training, loader: ClipLoader, place: Place) -> Tensor:
    """Return the logits of every video of val, float32 ``(N, K)``, on all workers."""
    mine = {
        request.row: logits
        for batch in loader.batches(plan.val_requests(place.rank))
        for request, logits in zip(batch.requests, training.predict(batch).cpu(), strict=True)
    }
    logits_of_row = {row: logits for part in place.gather(mine) for row, logits in part.items()}
    assert sorted(logits_of_row) == sorted(plan.val_rows), "every video of val counts exactly once"
    return torch.stack([logits_of_row[row] for row in plan.val_rows])


def val_metrics(plan: TrainPlan, val_logits: Tensor, mirror: Mirror | None) -> dict[str, float]:
    """Return the metrics of val logits, under their MLflow names."""
    labels = torch.tensor(plan.labels(plan.val_rows))
    teacher_logits = None if mirror is None else val_teacher_logits(plan, mirror)
    metrics = evaluate_logits(val_logits, labels, teacher_logits)
    return {f"val/{name}": value for name, value in metrics.items()}


def val_teacher_logits(plan: TrainPlan, mirror: Mirror) -> Tensor:
    """Return the teacher's logits of val from the store, float32 ``(N, K)``."""
    indices = [EVALUATION_VIEW] * len(plan.val_rows)
    return torch.from_numpy(mirror.teacher_logits(list(plan.val_rows), indices))


def mean_points(parts: Sequence[Points]) -> Points:
    """Average the points of all workers, step by step."""
    return [
        (
            same_step[0][0],
            {k: fmean(metrics[k] for _, metrics in same_step) for k in same_step[0][1]},
        )
        for same_step in zip(*parts, strict=True)
    ]


def _coordinates(batch: ClipBatch) -> tuple[list[int], list[int]]:
    rows = [request.row for request in batch.requests]
    return rows, [request.view.view_index for request in batch.requests]
