"""The bare loop of one worker, without Ray, on real videos and a sealed store."""

import contextlib
import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from dvflnet.metrics import evaluate_logits
from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import UNLABELLED
from pipeline.errors import DatasetError, PipelineError, TrainingDiverged, ViewMismatch
from pipeline.logits.mirror import Mirror, open_mirror
from pipeline.networks.recipe import student_recipe, teacher_recipe
from pipeline.training.loop import EpochResult, Worker, evaluate, mean_points, points_of, train
from pipeline.training.plan import vary_student
from pipeline.training.step import StepResult, Training
from pipeline.training.train_plan import StoreReference, TrainPlan
from pipeline.views.loader import ClipLoader
from pipeline.views.view import EVALUATION_VIEW


class KeepingWorker(Worker):
    """A worker that is alone and keeps what it is told."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.steps: list[int] = []
        self.reports: list[EpochResult] = []
        self.states: list[dict[str, Any]] = []

    def advance(self, step):
        self.steps.append(step)

    def report(self, epoch, training):
        self.reports.append(epoch)
        self.states.append(copy.deepcopy(state_of(training)))


def state_of(training: Training) -> dict[str, Any]:
    return {"network": training.network.state_dict(), "optimiser": training.optimiser.state_dict()}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def mirror(sealed_store, tmp_path_factory):
    return open_mirror(sealed_store, tmp_path_factory.mktemp("mirrors"))


@pytest.fixture(scope="module")
def plan(dataset, tiny_config, mirror) -> TrainPlan:
    return plan_of(tiny_config, dataset.manifest, mirror)


def plan_of(config: ExperimentConfig, manifest, mirror: Mirror | None) -> TrainPlan:
    recipe = student_recipe(config) if mirror else teacher_recipe(config)
    rows = [tuple(manifest.rows_of(split)) for split in ("train", "val")]
    store = StoreReference("", mirror.root_digest, "", "", "") if mirror else None
    return TrainPlan(config, recipe, manifest, *rows, store, init_digest="")


def start_training(plan: TrainPlan, seed: int = 0) -> Training:
    torch.manual_seed(seed)
    return Training(plan.build_network(), plan.recipe, plan.schedule, torch.device("cpu"))


def run(plan: TrainPlan, mirror: Mirror | None) -> KeepingWorker:
    worker = KeepingWorker()
    train(plan, start_training(plan), worker, mirror=mirror)
    return worker


@pytest.fixture(scope="module")
def finished(plan) -> Training:
    return start_training(plan)


@pytest.fixture(scope="module")
def straight(plan, finished, mirror) -> KeepingWorker:
    """A whole run, after which ``finished`` is trained."""
    worker = KeepingWorker()
    train(plan, finished, worker, mirror=mirror)
    return worker


def same_report(first: EpochResult, second: EpochResult) -> bool:
    names = ("epoch", "step", "points", "val")
    equal = all(getattr(first, name) == getattr(second, name) for name in names)
    return equal and torch.equal(first.val_logits, second.val_logits)


def test_the_best_epoch_has_most_right_answers_and_then_the_lowest_nll():
    def score(top1, nll):
        val = {"val/top1": top1, "val/nll": nll}
        return EpochResult(1, 1, 0.0, [], val, torch.zeros(10_000, 2)).score

    ordered = [score(0.5, 0.1), score(0.5001, math.inf), score(0.5001, 9.0), score(0.5001, 8.9)]
    assert sorted(ordered) == ordered
    assert len(set(ordered)) == 4


def test_every_epoch_is_reported_with_its_points(straight):
    assert straight.steps == list(range(1, 16))  # 20 videos, 4 a step, 3 epochs
    assert [(report.epoch, report.step) for report in straight.reports] == [
        (1, 5),
        (2, 10),
        (3, 15),
    ]
    points = [[step for step, _ in report.points] for report in straight.reports]
    assert points == [[2, 4, 5], [6, 8, 10], [12, 14, 15]]
    for report in straight.reports:
        assert report.seconds > 0
        for _, metrics in report.points:
            assert metrics["train/distill_loss"] > 0
            assert metrics["train/lr"] > 0


def test_every_video_of_val_is_evaluated_once(straight, finished, plan, mirror):
    report = straight.reports[-1]
    assert report.val_logits.shape == (len(plan.val_rows), 2)
    requests = [request for batch in plan.val_requests(rank=0) for request in batch]
    assert [request.row for request in requests] == list(plan.val_rows)
    with ClipLoader(1, plan.config.dataset.limits, side=32) as loader:
        for request, logits in zip(requests, report.val_logits, strict=True):
            (batch,) = loader.batches([[request]])
            torch.testing.assert_close(finished.predict(batch)[0], logits, rtol=1e-4, atol=1e-5)
    labels = torch.tensor(plan.labels(plan.val_rows))
    cached = mirror.teacher_logits(list(plan.val_rows), [EVALUATION_VIEW] * len(plan.val_rows))
    expected = evaluate_logits(report.val_logits, labels, torch.from_numpy(cached))
    assert report.val == {f"val/{name}": value for name, value in expected.items()}


class OneOfMany(Worker):
    """A worker whose fellows of lower rank have finished already, and the others not at all."""

    def __init__(self, rank, parts):
        super().__init__(torch.device("cpu"))
        self.rank, self.parts = rank, parts

    def gather(self, value):
        self.parts.append(value)
        return self.parts


@pytest.mark.parametrize("num_workers", [2, 5])
def test_evaluation_does_not_depend_on_the_number_of_workers(num_workers, straight, finished, plan):
    cluster = plan.config.cluster.model_copy(update={"num_workers": num_workers})
    shared = replace(plan, config=plan.config.model_copy(update={"cluster": cluster}))
    parts: list[Any] = []
    with ClipLoader(1, plan.config.dataset.limits, side=32) as loader:
        for rank in range(num_workers - 1):
            with contextlib.suppress(AssertionError):  # the videos of later ranks are missing yet
                evaluate(shared, finished, loader, OneOfMany(rank, parts))
        logits = evaluate(shared, finished, loader, OneOfMany(num_workers - 1, parts))
    torch.testing.assert_close(logits, straight.reports[-1].val_logits, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_the_straight_one_bit_for_bit(straight, plan, mirror):
    before, state = straight.reports[0], straight.states[0]
    training, worker = start_training(plan, seed=99), KeepingWorker()
    training.network.load_state_dict(state["network"])
    training.optimiser.load_state_dict(state["optimiser"])
    train(plan, training, worker, mirror=mirror, first_step=before.step, seconds=before.seconds)
    assert worker.reports[0].seconds > before.seconds
    pairs = zip(worker.reports, straight.reports[1:], strict=True)
    assert all(same_report(ours, theirs) for ours, theirs in pairs)
    for name, tensor in straight.states[-1]["network"].items():
        assert torch.equal(worker.states[-1]["network"][name], tensor)


def test_a_finished_run_has_nothing_left_to_do(straight, finished, plan, mirror):
    worker = KeepingWorker()
    train(plan, finished, worker, mirror=mirror, first_step=plan.order.num_steps)
    assert worker.steps == worker.reports == []


def test_evaluation_may_be_rare(dataset, tiny_config, mirror):
    section = tiny_config.train.model_copy(update={"evaluate_every_epochs": 2, "epochs": 3})
    config = tiny_config.model_copy(update={"train": section})
    worker = run(plan_of(config, dataset.manifest, mirror), mirror)
    assert [report.epoch for report in worker.reports] == [2, 3]


def test_the_teacher_learns_from_labels_alone(dataset, tmp_path):
    config = dataset.config(
        tmp_path,
        teacher={"train": {"epochs": 1, "batch_size": 10}, "optim": {"warmup_epochs": 0.5}},
    )
    (report,) = run(plan_of(config, dataset.manifest, None), None).reports
    assert report.step == 2
    assert report.points[-1][1]["train/distill_loss"] == 0.0
    assert not any("teacher" in name for name in report.val)


# --- videos without labels ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(plan) -> TrainPlan:
    """The plan, with every third video of train as one without a label."""
    return without_labels(plan, plan.train_rows[::3])


def without_labels(plan: TrainPlan, rows: Sequence[int]) -> TrainPlan:
    records = [
        replace(record, label=None) if row in rows else record
        for row, record in enumerate(plan.manifest.records)
    ]
    return replace(plan, manifest=replace(plan.manifest, records=tuple(records)))


def with_loss(plan: TrainPlan, **loss: Any) -> TrainPlan:
    """The plan with another loss, and one epoch to train with it."""
    sections = {
        "loss": plan.config.loss.model_copy(update=loss),
        "train": plan.config.train.model_copy(update={"epochs": 1}),
    }
    return vary_student(plan, plan.config.model_copy(update=sections))


def test_labels_that_do_not_count_change_nothing(plan, mixed, mirror):
    """With weight 1 a label has no part in the loss, so a run cannot tell who has one."""
    assert mixed.learnt_rows == mixed.train_rows
    assert "7 of them without a label" in mixed.as_text()
    every = {"distill_weight": 1.0}
    ours, theirs = (run(with_loss(p, **every), mirror) for p in (mixed, plan))
    for name, tensor in theirs.states[-1]["network"].items():
        torch.testing.assert_close(ours.states[-1]["network"][name], tensor)


def test_labels_alone_leave_the_others_out(plan, mixed, mirror):
    baseline = with_loss(mixed, distill_weight=0.0)
    labelled = tuple(row for row in plan.train_rows if row not in plan.train_rows[::3])
    assert baseline.learnt_rows == labelled
    assert "7 without a label left out" in baseline.as_text()
    taught = with_loss(mixed, distill_weight=1.0)
    assert baseline.order.num_steps == taught.order.num_steps  # so that the two can be compared
    seen = [request.row for batch in baseline.train_requests(0, 0) for request in batch]
    assert {seen.count(row) for row in labelled} == {1, 2}  # 20 clips of 13 videos
    assert set(seen) == set(labelled)


def test_labels_are_drawn_by_class_and_the_others_are_as_if_they_had_none(plan):
    def drawn(**settings: Any) -> TrainPlan:
        section = plan.config.train.model_copy(update={"labels_per_class": 2} | settings)
        return vary_student(plan, plan.config.model_copy(update={"train": section}))

    few, rows = drawn(), plan.train_rows
    known = tuple(row for row in rows if few.labels([row]) != [UNLABELLED])
    assert sorted(few.labels(known)) == [0, 0, 1, 1]
    assert few.labels(plan.val_rows) == plan.labels(plan.val_rows)
    assert (few.learnt_rows, drawn(learn_from="labelled").learnt_rows) == (rows, known)
    assert drawn(seed=5, labels_seed=0).labels(rows) == few.labels(rows)
    assert len({tuple(drawn(seed=seed).labels(rows)) for seed in range(4)}) > 1
    assert drawn(labels_per_class=99).labels(rows) == plan.labels(rows)
    assert " classes have fewer than 99 labels" in drawn(labels_per_class=99).as_text()
    assert "fewer" not in drawn(labels_per_class=1).as_text()


@pytest.mark.parametrize(
    ("share", "loss", "message"),
    [
        (1, {"distill_weight": 0.5}, "no video of train has a label, .* is 0.5: set it to 1"),
        (1, {"distill_weight": 0.0}, "no video of train has a label"),
        (3, {"kind": "dkd"}, "dkd needs labels, and 7 videos of train have none"),
    ],
)
def test_a_loss_that_needs_more_labels_is_refused(plan, share, loss, message):
    bad = with_loss(without_labels(plan, plan.train_rows[::share]), **loss)
    with pytest.raises(PipelineError, match=message):
        bad.as_text()


def test_all_unlabelled_learn_from_the_teacher(plan, mirror):
    alone = with_loss(without_labels(plan, plan.train_rows), distill_weight=1.0)
    assert run(alone, mirror).reports[-1].points[-1][1]["train/label_loss"] == 0.0


def test_the_baseline_of_videos_without_labels_has_a_name_and_is_not_trained(plan):
    """Evaluation looks for it by its name, and leaves it out."""
    baseline = with_loss(without_labels(plan, plan.train_rows), distill_weight=0.0)
    assert baseline.name.startswith("vflnet")
    with pytest.raises(DatasetError, match="no video of train has a label"):
        run(baseline, None)


def test_a_student_of_other_views_is_stopped(dataset, tiny_config, mirror):
    views = tiny_config.views.model_copy(update={"seed": 1})
    plan = plan_of(tiny_config.model_copy(update={"views": views}), dataset.manifest, mirror)
    worker = KeepingWorker()
    with pytest.raises(ViewMismatch, match="policy or seed"):
        train(plan, start_training(plan), worker, mirror=mirror)
    assert worker.steps == []


def test_divergence_names_the_videos(dataset, tiny_config, mirror):
    optim = tiny_config.optim.model_copy(update={"lr": 1e30, "warmup_epochs": 0.0})
    plan = plan_of(tiny_config.model_copy(update={"optim": optim}), dataset.manifest, mirror)
    with pytest.raises(TrainingDiverged, match=r"of step [12] is .*\n.*(Archery|Bowling)/"):
        run(plan, mirror)


# --- points -------------------------------------------------------------------------------------


def test_points_average_the_steps_since_the_last_one():
    results = [(step, StepResult(2.0 * step - 1, 0.0, 0.0, 1.0, 0.1)) for step in (1, 2, 3)]
    points = points_of(results, every=2)
    assert [(step, metrics["train/loss"]) for step, metrics in points] == [(2, 2.0), (3, 5.0)]
    assert points_of([], every=2) == []


def test_points_of_workers_are_averaged_step_by_step():
    parts = [[(2, {"a": 1.0}), (4, {"a": 2.0})], [(2, {"a": 3.0}), (4, {"a": 4.0})]]
    assert mean_points(parts) == [(2, {"a": 2.0}), (4, {"a": 3.0})]
    assert mean_points([[], []]) == []
