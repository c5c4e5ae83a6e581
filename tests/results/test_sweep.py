"""The grid of a sweep and its results, without Ray."""

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dvflnet.metrics import evaluate_logits
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import ConfigError
from pipeline.results.intervals import seeds_interval, units_of
from pipeline.results.sweep import Outcome, SweepResult, answers_by_video, heatmap_figure
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


UNITS = units_of(["a", "a", "b", "c", "d", "d", "e", "f", "g", "h"])  # of ten videos


def outcome(weight: float, temperature: float, seed: int, num_right: int) -> Outcome:
    right = [1.0] * num_right + [0.0] * (len(UNITS.unit_of) - num_right)
    answers = {"top1": right, "nll": [1 - value for value in right]}
    top1 = num_right / len(right)
    metrics = {"top1": top1, "nll": 1 - top1, "ece": 0.1}
    name = f"w{weight}-t{temperature}-s{seed}"
    return Outcome(name, weight, temperature, seed, "finished", 3, 9.0, metrics, answers)


RESULT = SweepResult(
    [
        outcome(0.0, OWN_TEMPERATURE, 3, 5),
        outcome(0.0, OWN_TEMPERATURE, 5, 7),
        outcome(0.5, 2.0, 3, 6),
        outcome(0.5, 2.0, 5, 9),
        Outcome(
            "broken", 0.5, 4.0, 5, "failed", reason="the loss of step 0 is nan\n  Its batch: a"
        ),
    ],
    UNITS,
)


def test_labels_alone_are_trained_once_for_all_temperatures(plan: SweepPlan) -> None:
    places = [(trial.point, trial.seed) for trial in plan.trials]
    points = [Point(0.0, OWN_TEMPERATURE), Point(0.5, 2.0), Point(0.5, 4.0)]
    assert places == [(point, seed) for point in points for seed in (3, 5)]


def test_kinds_of_loss_are_varied_and_decide_nothing_without_distillation(
    config: ExperimentConfig, plan: SweepPlan
) -> None:
    sweep = config.sweep.model_copy(update={"kinds": ("forward_kl", "dkd"), "seeds": (3,)})
    loss = config.loss.model_copy(update={"kind": "dkd", "dkd_beta": 2.0})
    kinds = plan_sweep(config.model_copy(update={"sweep": sweep, "loss": loss}))
    assert [trial.point.kind for trial in kinds.trials] == [
        "forward_kl",
        *["dkd", "forward_kl"] * 2,
    ]
    plain = [trial.name for trial in kinds.trials if trial.point.kind == "forward_kl"]
    assert plain == [trial.name for trial in plan.trials if trial.seed == 3]
    assert kinds.trials[1].plan.recipe.loss.dkd_beta == 2.0
    outcomes = [
        replace(outcome(*trial.point[:2], 3, 5), kind=trial.point.kind) for trial in kinds.trials
    ]
    top1, _ = heatmap_figure(kinds.config, SweepResult(outcomes, UNITS)).axes
    labels = [label.get_text() for label in top1.get_yticklabels()]
    assert labels == ["forward_kl 0", "forward_kl 0.5", "dkd 0", "dkd 0.5"]
    assert "-" not in [text.get_text() for text in top1.texts]


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


def test_a_kind_that_needs_labels_is_refused_before_the_first_trial(
    config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = plan_student(config)
    records = list(student.manifest.records)
    row = student.train_rows[0]
    records[row] = replace(records[row], label=None)
    manifest = replace(student.manifest, records=tuple(records))
    unlabelled = replace(student, manifest=manifest)
    monkeypatch.setattr("pipeline.training.sweep.plan_student", lambda _: unlabelled)
    kinds = config.sweep.model_copy(update={"kinds": ("forward_kl", "dkd")})
    with pytest.raises(ConfigError, match="dkd needs labels, and 1 videos of train have none"):
        plan_sweep(config.model_copy(update={"sweep": kinds}))


def test_gains_are_paired_by_seed_and_video() -> None:
    cell = RESULT.cells[Point(0.5, 2.0)]
    differences = np.zeros((2, 10))
    differences[0, 5] = differences[1, 7:9] = 1.0  # right in the one, wrong in the other
    assert cell.gain == seeds_interval(differences, UNITS)
    assert cell.gain.mean == pytest.approx(0.15)
    assert RESULT.cells[Point(0.0, OWN_TEMPERATURE)].gain is None


def test_only_finished_trials_count_and_the_others_are_named() -> None:
    assert Point(0.5, 4.0) not in RESULT.cells
    assert RESULT.best is not None
    assert RESULT.best.point == Point(0.5, 2.0)
    table = RESULT.table
    assert "1 of 5 trials failed:\n  broken: the loss of step 0 is nan\n" in table + "\n"
    assert [line for line in table.splitlines() if line.startswith("best")] == [
        line for line in table.splitlines() if "75.0 ±" in line
    ]
    rows = list(csv.DictReader(io.StringIO(RESULT.csv)))
    assert [row["state"] for row in rows] == [outcome.state for outcome in RESULT.outcomes]
    assert float(rows[3]["top1"]) == 0.9


def test_intervals_say_their_units_and_are_over_seeds_where_no_answers_were_kept() -> None:
    assert "±: 95 % over n seeds and 8 groups" in RESULT.table
    assert "8 groups are few" in RESULT.table
    old = SweepResult([replace(trial, answers={}) for trial in RESULT.outcomes], UNITS)
    assert "±: 95 % over n seeds only" in old.table
    _, low, high = old.cells[Point(0.5, 2.0)].top1
    # 12.7062 is the 0.975 quantile of t with one degree of freedom; s = 0.15 * sqrt(2), n = 2.
    assert (low, high) == pytest.approx((0.75 - 12.7062 * 0.15, 0.75 + 12.7062 * 0.15), rel=1e-5)


def test_answers_are_those_of_the_metrics() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels, metrics = torch.arange(50) % 4, evaluate_logits(logits, torch.arange(50) % 4)
    for name, values in answers_by_video(logits, labels).items():
        assert np.mean(values) == pytest.approx(metrics[name], abs=1e-6)


def test_the_heat_map_says_mean_and_number_of_seeds(config: ExperimentConfig) -> None:
    top1, nll = heatmap_figure(config, RESULT).axes
    # Labels alone fill their row; the cell without a finished trial stays empty.
    assert [text.get_text().partition("\n")[0] for text in top1.texts] == [
        "60.0",
        "60.0",
        "75.0",
        "-",
    ]
    assert all("n = 2" in text.get_text() for text in [*top1.texts[:3], *nll.texts[:3]])


def test_the_best_cell_is_sure_only_where_no_interval_reaches_it() -> None:
    assert not RESULT.best_is_sure
    clear = [outcome(0.0, OWN_TEMPERATURE, seed, 1) for seed in (3, 5)]
    clear += [outcome(0.5, 2.0, seed, 9) for seed in (3, 5)]
    assert SweepResult(clear, UNITS).best_is_sure
    failed = SweepResult(
        [outcome for outcome in RESULT.outcomes if outcome.name == "broken"], UNITS
    )
    assert not failed.best_is_sure
