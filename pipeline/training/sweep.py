"""The plan of a sweep: students for loss kind x temperature x distill_weight x seed, of one store.

A trial is the run that ``train_student`` would make with the same settings, and has its name. Its
result is kept by that name, so that another grid, or the same one after a kill, trains only what is
missing. A trial keeps no weights: a sweep makes a table, and ``train_student`` makes the student of
any of its cells.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import DistillKind
from pipeline.errors import ConfigError
from pipeline.storage.files import join_uri, sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.training.plan import plan_student, vary_student
from pipeline.training.train_plan import TrainPlan, check_labels


class Point(NamedTuple):
    """The settings of a cell of the grid; its trials differ in the seed alone."""

    distill_weight: float
    temperature: float
    kind: DistillKind = "forward_kl"

    def as_text(self) -> str:
        return f"{self.kind}, w {self.distill_weight:g}, T {self.temperature:g}"


@dataclass(frozen=True)
class Trial:
    """One student of a sweep."""

    point: Point
    seed: int
    plan: TrainPlan

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def result_uri(self) -> str:
        return join_uri(self.plan.config.artefacts, "sweeps", "trials", f"{self.name}.json")


@dataclass(frozen=True)
class SweepPlan:
    """A grid of trials on one store."""

    config: ExperimentConfig
    trials: tuple[Trial, ...]

    @property
    def root_digest(self) -> str:
        return self.trials[0].plan.root_digest

    @cached_property
    def key(self) -> str:
        """Digest of all trials."""
        keys = sorted(trial.plan.key for trial in self.trials)
        # False said that no trial is stopped early; it stays so that finished sweeps are found.
        return sha256_of(canonical_json([keys, False]))

    @property
    def name(self) -> str:
        """A unique name that shows the size of the grid."""
        sweep, kinds = self.config.sweep, kinds_of(self.config)
        sizes: dict[str, Sized] = {"k": kinds} if len(kinds) > 1 else {}
        sizes |= {"w": sweep.distill_weights, "t": sweep.temperatures, "s": sweep.seeds}
        grid = "-".join(f"{len(values)}{letter}" for letter, values in sizes.items())
        return f"sweep-{grid}-{self.key[:6]}"

    @property
    def folder(self) -> str:
        return join_uri(self.config.artefacts, "sweeps", self.name)

    def as_text(self) -> str:
        sweep, order = self.config.sweep, self.trials[0].plan.order
        weights, temperatures, seeds = (
            ", ".join(f"{value:g}" for value in values)
            for values in (sweep.distill_weights, sweep.temperatures, sweep.seeds)
        )
        return (
            f"sweep   {self.name}\n"
            f"store   {self.root_digest}\n"
            f"grid    {', '.join(kinds_of(self.config))} x distill_weight {weights} x "
            f"temperature {temperatures} x seed {seeds}\n"
            f"trials  {len(self.trials)}, each {order.num_steps} steps of "
            f"{order.global_batch_size} clips in {order.epochs} epochs"
        )


def plan_sweep(config: ExperimentConfig) -> SweepPlan:
    """Check the store once and lay the grid over it; starts nothing.

    ConfigError if a trial would need several workers, or a setting is given twice;
    StoreIncomplete, FingerprintMismatch, DatasetError as for ``train_student``.
    """
    if config.cluster.num_workers > 1:
        raise ConfigError(
            "a trial of a sweep trains in one worker, because several trials run at once.\n"
            "  Set cluster.num_workers=1 and train.batch_size to the global batch."
        )
    sweep = config.sweep
    for name, values in sweep.model_dump().items():
        if values and len(set(values)) < len(values):
            raise ConfigError(f"sweep.{name} holds a value twice: {list(values)}")
    grid = product(sweep.distill_weights, sweep.temperatures, kinds_of(config))
    points = sorted({point_at(config, *cell) for cell in grid})
    student = plan_student(config)
    trials = [_trial(student, point, seed) for point in points for seed in sweep.seeds]
    return SweepPlan(config, tuple(trials))


def kinds_of(config: ExperimentConfig) -> tuple[DistillKind, ...]:
    return config.sweep.kinds or (config.loss.kind,)


def point_at(
    config: ExperimentConfig, distill_weight: float, temperature: float, kind: DistillKind
) -> Point:
    """Return the point that is trained for a cell of the grid.

    Without distillation temperature and kind decide nothing, so that one trial a seed stands for
    all of them.
    """
    if not distill_weight:
        return Point(0.0, config.loss.temperature)
    return Point(distill_weight, temperature, kind)


def _trial(student: TrainPlan, point: Point, seed: int) -> Trial:
    """Plan a trial; the rows, the store and the first weights are those of every other."""
    config = student.config
    loss = config.loss.model_copy(update=point._asdict())
    if point.kind != "dkd":
        loss = loss.model_copy(update={"dkd_alpha": None, "dkd_beta": None})
    if not point.distill_weight:
        loss = config.baseline.loss
    train = config.train.model_copy(update={"seed": seed})
    own = config.model_copy(update={"loss": loss, "train": train})
    plan = vary_student(student, own)
    check_labels(plan)
    return Trial(point, seed, plan)
