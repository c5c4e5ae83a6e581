"""One trial of a sweep: the training loop of stage two, alone in its process, from the mirror.

No teacher is opened here, and no weights are kept: what a sweep makes is a table. The student of a
cell is made by ``train_student`` with the cell's settings, which trains the very same run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from pipeline.networks.build import start_network
from pipeline.training.loop import EpochResult, train
from pipeline.training.plan import TrainPlan, open_plan_mirror
from pipeline.training.train_start import build_training, fresh_network

T = TypeVar("T")
Report = Callable[[dict[str, Any]], None]


def run_trial(plan: TrainPlan, report: Report) -> dict[str, Any]:
    """Train a student to the end; return the last epoch's report.

    Args:
        plan: of the run, for one worker.
        report: takes ``epoch``, ``step``, ``seconds``, ``points`` and the metrics of val, after
            every epoch that is evaluated.

    Raises:
        TrainingDiverged, ViewMismatch, VideoDecodeError: as the training loop does.

    """
    cluster = plan.config.cluster
    torch.set_num_threads(cluster.worker_threads)
    device = torch.device("cuda" if cluster.use_gpu else "cpu")
    network = fresh_network(plan)
    start_network(network, plan.recipe.model)
    place = TrialPlace(report)
    train(
        plan,
        build_training(plan, network.to(device), device),
        place,
        mirror=open_plan_mirror(plan),
    )
    return place.last


class TrialPlace:
    """The place of a worker that is alone."""

    rank = 0

    def __init__(self, report: Report) -> None:
        self.last: dict[str, Any] = {}
        self._report, self._seconds = report, 0.0

    def gather(self, value: T) -> list[T]:
        """Return the value of the only worker."""
        return [value]

    def advance(self, step: int) -> None:
        """Say nothing: a trial is short, and its epochs are reported."""

    def report(self, result: EpochResult) -> None:
        """Pass an evaluated epoch on."""
        self._seconds += result.seconds
        self.last = {
            "epoch": result.epoch,
            "step": result.step,
            "points": result.points,
            "seconds": self._seconds,
            **result.val,
        }
        self._report(self.last)
