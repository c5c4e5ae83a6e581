"""Which students a sweep trains: temperature x distill_weight x seed, all from one logit store.

A trial is the run that ``train_student`` would make with the same three settings, and has its name.
Its result is kept by that name, so that another grid, or the same one after a kill, trains only
what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

import torch

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import ConfigError
from pipeline.networks.build import start_network
from pipeline.storage.files import join_uri, sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.training.loop import EpochResult, train
from pipeline.training.plan import (
    TrainPlan,
    build_training,
    fresh_network,
    open_plan_mirror,
    plan_student,
    vary_student,
)


@dataclass(frozen=True, order=True)
class Point:
    """A place in the grid, without the seed."""

    distill_weight: float
    temperature: float

    def as_text(self) -> str:
        """Name the two settings as a person reads them."""
        return f"w {self.distill_weight:g}, T {self.temperature:g}"


@dataclass(frozen=True)
class Trial:
    """One student of the sweep, and its plan."""

    point: Point
    seed: int
    plan: TrainPlan

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.plan.name

    @property
    def result_uri(self) -> str:
        """Where the finished trial's result is."""
        return join_uri(_folder(self.plan.config), "trials", f"{self.name}.json")


@dataclass(frozen=True)
class SweepPlan:
    """A grid of trials on one store. ``asha``: trials that fall behind are stopped."""

    config: ExperimentConfig
    trials: tuple[Trial, ...]
    asha: bool

    @property
    def root_digest(self) -> str:
        """Of the store that every trial learns from."""
        return self.trials[0].plan.root_digest

    @cached_property
    def key(self) -> str:
        """Digest of all trials, and of whether they may be stopped."""
        keys = sorted(trial.plan.key for trial in self.trials)
        return sha256_of(canonical_json([keys, self.asha]))

    @property
    def name(self) -> str:
        """A name that says the grid, and that no other sweep has."""
        sweep = self.config.sweep
        sizes = (len(sweep.distill_weights), len(sweep.temperatures), len(sweep.seeds))
        asha = "-asha" if self.asha else ""
        return f"sweep-{sizes[0]}w-{sizes[1]}t-{sizes[2]}s{asha}-{self.key[:6]}"

    @property
    def folder(self) -> str:
        """URI of the folder that the sweep's table goes to."""
        return join_uri(_folder(self.config), self.name)

    def as_text(self) -> str:
        """What is printed before anything is trained, and by ``--dry-run``."""
        sweep, order = self.config.sweep, self.trials[0].plan.order

        def listed(values: tuple[float, ...]) -> str:
            return ", ".join(f"{value:g}" for value in values)

        return "\n".join(
            [
                f"sweep   {self.name}",
                f"store   {self.root_digest}",
                f"grid    distill_weight {listed(sweep.distill_weights)} x "
                f"temperature {listed(sweep.temperatures)} x seed {listed(sweep.seeds)}",
                f"trials  {len(self.trials)}, each {order.num_steps} steps of "
                f"{order.global_batch_size} clips in {order.epochs} epochs",
            ]
        )


def plan_sweep(config: ExperimentConfig, *, asha: bool) -> SweepPlan:
    """Check the store once and lay the grid over it; starts nothing.

    Without distillation (``distill_weight`` 0) the temperature decides nothing, so that there is
    one trial a seed for all temperatures.

    Raises:
        ConfigError: if a trial would need several workers, or a setting is given twice.
        StoreIncomplete, FingerprintMismatch, DatasetError: as for ``train_student``.

    """
    _check(config)
    student, sweep = plan_student(config), config.sweep
    points = {
        point_at(config, weight, temperature)
        for weight, temperature in product(sweep.distill_weights, sweep.temperatures)
    }
    trials = [_trial(student, point, seed) for point in sorted(points) for seed in sweep.seeds]
    return SweepPlan(config, tuple(trials), asha)


def point_at(config: ExperimentConfig, distill_weight: float, temperature: float) -> Point:
    """Return the point whose trials stand for a place of the grid.

    Without distillation that is the experiment's own temperature, whatever the grid.
    """
    return Point(distill_weight, temperature if distill_weight else config.loss.temperature)


def _check(config: ExperimentConfig) -> None:
    if config.cluster.num_workers > 1:
        raise ConfigError(
            "a trial of a sweep trains in one worker, because trials run beside each other.\n"
            "  Set cluster.num_workers=1 and train.batch_size to the global batch."
        )
    for name in ("distill_weights", "temperatures", "seeds"):
        values = getattr(config.sweep, name)
        if len(set(values)) < len(values):
            raise ConfigError(f"sweep.{name} holds a value twice: {list(values)}")


def _trial(student: TrainPlan, point: Point, seed: int) -> Trial:
    """Plan a trial; the rows, the store and the first weights are those of every other."""
    config = student.config
    loss = {"distill_weight": point.distill_weight, "temperature": point.temperature}
    own = config.model_copy(
        update={
            "loss": config.loss.model_copy(update=loss),
            "train": config.train.model_copy(update={"seed": seed}),
        }
    )
    return Trial(point, seed, vary_student(student, own))


def _folder(config: ExperimentConfig) -> str:
    return join_uri(config.artefacts, "sweeps")


# FOLDED training/sweep_trial
# One trial of a sweep: the training loop of stage two, alone in its process, from the mirror.
#
# No teacher is opened here, and no weights are kept: what a sweep makes is a table. The
# student of a
# cell is made by ``train_student`` with the cell's settings, which trains the very same run.


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
