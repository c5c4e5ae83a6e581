"""The grid of a sweep and its results, without Ray."""

import csv
import io
from typing import Any

import pytest

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import ConfigError
from pipeline.results.sweep import (
    Outcome,
    best_cell,
    cells_of,
    estimate,
    heatmap_figure,
    sweep_csv,
    sweep_table,
)
from pipeline.training.plan import plan_student
from pipeline.training.sweep import Point, SweepPlan, plan_sweep

OWN_TEMPERATURE = 10.0  # of the experiment
GRID = {"distill_weights": (0.0, 0.5), "temperatures": (2.0, 4.0), "seeds": (3, 5)}


@pytest.fixture(scope="module")
def config(dataset: Any, sealed_store: str, tmp_path_factory: Any) -> ExperimentConfig:
    folder = tmp_path_factory.mktemp("sweep")
    config: ExperimentConfig = dataset.config(
        folder, store={"uri": sealed_store}, loss={"temperature": OWN_TEMPERATURE}, sweep=GRID
    )
    dataset.publish(config)
    return config


@pytest.fixture(scope="module")
def plan(config: ExperimentConfig) -> SweepPlan:
    return plan_sweep(config)


def outcome(weight: float, temperature: float, seed: int, top1: float) -> Outcome:
    metrics = {"top1": top1, "nll": 1 - top1, "ece": 0.1}
    name = f"w{weight}-t{temperature}-s{seed}"
    return Outcome(name, weight, temperature, seed, "finished", 3, 9.0, metrics)


OUTCOMES = [
    outcome(0.0, OWN_TEMPERATURE, 3, 0.5),
    outcome(0.0, OWN_TEMPERATURE, 5, 0.7),
    outcome(0.5, 2.0, 3, 0.6),
    outcome(0.5, 2.0, 5, 0.9),
    Outcome("broken", 0.5, 4.0, 5, "failed", reason="the loss of step 0 is nan\n  Its batch: a"),
]


def test_labels_alone_are_trained_once_for_all_temperatures(plan: SweepPlan) -> None:
    places = [(trial.point, trial.seed) for trial in plan.trials]
    points = [Point(0.0, OWN_TEMPERATURE), Point(0.5, 2.0), Point(0.5, 4.0)]
    assert places == [(point, seed) for point in points for seed in (3, 5)]


def test_every_trial_learns_from_the_one_store(plan: SweepPlan) -> None:
    assert {trial.plan.root_digest for trial in plan.trials} == {plan.root_digest}
    assert len({trial.name for trial in plan.trials}) == len(plan.trials)


def test_a_trial_is_the_students_own_run(config: ExperimentConfig, plan: SweepPlan) -> None:
    settings = {"distill_weight": 0.5, "temperature": 4.0}
    by_hand = config.model_copy(
        update={
            "loss": config.loss.model_copy(update=settings),
            "train": config.train.model_copy(update={"seed": 5}),
        }
    )
    assert plan.trials[-1].plan.key == plan_student(by_hand).key


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("cluster", {"num_workers": 2}, "one worker"),
        ("sweep", {"seeds": (1, 1)}, r"sweep\.seeds holds a value twice"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    config: ExperimentConfig, section: str, values: dict[str, Any], message: str
) -> None:
    changed = getattr(config, section).model_copy(update=values)
    with pytest.raises(ConfigError, match=message):
        plan_sweep(config.model_copy(update={section: changed}))


def test_intervals_are_students_t() -> None:
    # 4.302653 is the 0.975 quantile of t with two degrees of freedom; s = 1, n = 3.
    assert estimate([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / 3**0.5, 3), rel=1e-6)
    assert estimate([0.5]) == (0.5, None, 1)


def test_gains_are_paired_by_seed() -> None:
    cell = cells_of(OUTCOMES)[Point(0.5, 2.0)]
    assert cell.gain == estimate([0.6 - 0.5, 0.9 - 0.7])
    assert cells_of(OUTCOMES)[Point(0.0, OWN_TEMPERATURE)].gain is None


def test_only_finished_trials_count_and_the_others_are_named() -> None:
    cells = cells_of(OUTCOMES)
    assert Point(0.5, 4.0) not in cells
    best = best_cell(cells)
    assert best is not None
    assert best.point == Point(0.5, 2.0)
    table = sweep_table(OUTCOMES)
    assert "1 of 5 trials failed:\n  broken: the loss of step 0 is nan\n" in table + "\n"
    assert [line for line in table.splitlines() if line.startswith("best")] == [
        line for line in table.splitlines() if "75.0 ±" in line
    ]
    rows = list(csv.DictReader(io.StringIO(sweep_csv(OUTCOMES))))
    assert [row["state"] for row in rows] == [outcome.state for outcome in OUTCOMES]
    assert float(rows[3]["top1"]) == 0.9


def test_the_heat_map_says_mean_and_number_of_seeds(config: ExperimentConfig) -> None:
    top1, nll = heatmap_figure(config, OUTCOMES).axes
    # Labels alone fill their row; the cell without a finished trial stays empty.
    assert [text.get_text().partition("\n")[0] for text in top1.texts] == [
        "60.0",
        "60.0",
        "75.0",
        "-",
    ]
    assert all("n = 2" in text.get_text() for text in [*top1.texts[:3], *nll.texts[:3]])
