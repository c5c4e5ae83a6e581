"""The plan of a sweep: students for temperature x distill_weight x seed, all from one logit store.

A trial is the run that ``train_student`` would make with the same three settings, and has its name.
Its result is kept by that name, so that another grid, or the same one after a kill, trains only
what is missing. A trial keeps no weights: a sweep makes a table, and ``train_student`` makes the
student of any of its cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import ConfigError
from pipeline.storage.files import join_uri, sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.training.plan import TrainPlan, plan_student, vary_student


@dataclass(frozen=True, order=True)
class Point:
    """The settings of a cell of the grid; its trials differ in the seed alone."""

    distill_weight: float
    temperature: float

    def as_text(self) -> str:
        return f"w {self.distill_weight:g}, T {self.temperature:g}"


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
        return join_uri(_folder(self.plan.config), "trials", f"{self.name}.json")


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
        sweep = self.config.sweep
        sizes = (len(sweep.distill_weights), len(sweep.temperatures), len(sweep.seeds))
        return f"sweep-{sizes[0]}w-{sizes[1]}t-{sizes[2]}s-{self.key[:6]}"

    @property
    def folder(self) -> str:
        return join_uri(_folder(self.config), self.name)

    def as_text(self) -> str:
        """Describe the sweep before it starts, and for ``--dry-run``."""
        sweep, order = self.config.sweep, self.trials[0].plan.order

        def listed(values: tuple[float, ...]) -> str:
            return ", ".join(f"{value:g}" for value in values)

        return (
            f"sweep   {self.name}\n"
            f"store   {self.root_digest}\n"
            f"grid    distill_weight {listed(sweep.distill_weights)} x "
            f"temperature {listed(sweep.temperatures)} x seed {listed(sweep.seeds)}\n"
            f"trials  {len(self.trials)}, each {order.num_steps} steps of "
            f"{order.global_batch_size} clips in {order.epochs} epochs"
        )


def plan_sweep(config: ExperimentConfig) -> SweepPlan:
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
    return SweepPlan(config, tuple(trials))


def point_at(config: ExperimentConfig, distill_weight: float, temperature: float) -> Point:
    """Return the point that is trained for a cell of the grid.

    Without distillation its temperature is the experiment's own, whatever the grid's.
    """
    return Point(distill_weight, temperature if distill_weight else config.loss.temperature)


def _check(config: ExperimentConfig) -> None:
    if config.cluster.num_workers > 1:
        raise ConfigError(
            "a trial of a sweep trains in one worker, because several trials run at once.\n"
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
