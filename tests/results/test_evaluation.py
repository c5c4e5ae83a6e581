"""Evaluation without Ray: every video once, numbers as by hand, nothing dropped silently."""

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, DatasetError, Status, WeightsMismatch
from pipeline.networks.build import build_network
from pipeline.networks.trained import load_trained
from pipeline.networks.weight_files import write_weights
from pipeline.results.evaluation import Evaluation
from pipeline.stages.evaluate import collect, plan_evaluation
from pipeline.stages.evaluate_steps import Scorer, ViewCutter, looks_of, videos_block
from tests.untrained_student import write_student

NAMES = ("a", "b", "c")
LABELS = np.array([0, 1, 2, 1])
TEACHER = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.4, 0.35, 0.25]])
STUDENT = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6], [0.3, 0.6, 0.1]])


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        protocol="4x3",
        class_names=NAMES,
        rows=(3, 5, 6, 9),
        sample_ids=("v3", "v5", "v6", "v9"),
        groups=("g1", "g1", "g1", "g2"),
        labels=LABELS,
        probabilities={"teacher": TEACHER, "student": STUDENT},
        failures={"v4": "v4: truncated"},
        weights={"teacher": "last", "student": "best"},
    )


def test_metrics_are_those_of_a_hand_computation(evaluation):
    metrics = evaluation.metrics("student")
    right = [0.6, 0.4, 0.6, 0.6]
    assert metrics["top1"] == 0.75
    assert metrics["top5"] == 1.0  # there are three classes
    assert metrics["nll"] == pytest.approx(-np.log(right).mean())
    assert metrics["agreement"] == 0.5
    kl = (TEACHER * np.log(TEACHER / STUDENT)).sum(axis=1).mean()
    assert metrics["kl_to_teacher"] == pytest.approx(kl)
    assert "agreement" not in evaluation.metrics("teacher")
    difference = evaluation.difference("student", "teacher")
    assert difference["top1"].mean == 0.0  # one lost, one won
    nll = np.log(TEACHER[range(4), LABELS]) - np.log(STUDENT[range(4), LABELS])
    assert difference["nll"].mean == pytest.approx(nll.mean())


def test_the_summary_names_everything_and_the_text_shows_it(evaluation):
    summary = evaluation.summary
    assert summary["num_videos"] == 4
    assert summary["failed_videos"] == {"v4": "v4: truncated"}
    assert [(d["network"], d["against"]) for d in summary["differences"]] == [
        ("student", "teacher")
    ]
    assert summary["intervals"].items() >= {"unit": "groups", "num_units": 2}.items()
    text = evaluation.text
    assert "4 videos of val, 4x3 clips x crops, 1 failed" in text
    assert "student against teacher: top-1 +0.0 points" in text
    assert "may be chance" in text
    assert "student     best  75.0%" in text
    assert text.count("95 % over 2 groups") == 2  # the column of top-1, and the difference
    assert text.endswith("2 groups are few: intervals over under 20 are too narrow.")


def test_the_headline_names_the_best_student_the_next_and_the_teacher(evaluation):
    worse = np.roll(STUDENT, 1, axis=1)
    both = replace(
        evaluation,
        probabilities={"teacher": TEACHER, "worse": worse, "student": STUDENT},
        weights=dict.fromkeys(("teacher", "worse", "student"), "last"),
    )
    best, teacher, against = both.headline.split("; ")
    assert best.startswith("**Best on val: student, top-1 75.0%** (")
    assert against.startswith("against worse (25.0%) +50.0 points (")
    assert teacher.startswith("against teacher (75.0%) +0.0 points (")
    assert teacher.endswith("), maybe chance")
    for name in ("student", "teacher"):
        alone = replace(both, probabilities={name: STUDENT})
        assert alone.headline.startswith(f"**Best on val: {name}")
        assert "against" not in alone.headline


def test_intervals_say_where_groups_are_not_known_or_only_one(evaluation):
    text = replace(evaluation, groups=("g1", "g1", "", "g2")).text
    assert "95 % over 4 videos" in text
    assert "groups of some videos are not known" in text
    one = replace(evaluation, groups=("g1",) * 4)
    assert "1 group: no interval" in one.text
    assert "top-1 +0.0 points (-), which may be chance" in one.text
    assert one.summary["networks"]["student"]["top1_interval"] == [None, None]


def test_predictions_have_a_row_for_each_video_and_network(evaluation):
    table = evaluation.predictions().to_pylist()
    assert len(table) == 8
    assert table[5] == {
        "row": 5,
        "sample_id": "v5",
        "class": "b",
        "network": "student",
        "predicted": "a",
        "correct": False,
        "probability": 0.5,
        "probabilities": pytest.approx([0.5, 0.4, 0.1]),
    }


def test_a_probability_of_zero_is_a_large_number_and_not_an_infinite_one(evaluation):
    sure = np.eye(3)[[1, 1, 2, 1]]
    wrong = replace(evaluation, probabilities={"sure": sure}, weights={"sure": "last"})
    assert math.isfinite(wrong.metrics("sure")["nll"])


# --- plan and actors --------------------------------------------------------------------------


@pytest.fixture
def config(dataset, tmp_path):
    config = dataset.config(tmp_path / "artefacts")
    dataset.publish(config)
    return config


@pytest.fixture
def plan(config, dataset, tmp_path):
    names = dataset.manifest.class_names
    files = [write_student(config, tmp_path / f"{s}.safetensors", names, seed=s) for s in (1, 2)]
    return plan_evaluation(config, num_clips=2, num_crops=3, checkpoints=files, with_teacher=False)


def scores(plan, rows=None):
    candidates, manifest = plan.candidates, plan.manifest
    scorer = Scorer(candidates, manifest.class_names, plan.protocol, plan.config)
    rows = plan.rows if rows is None else rows
    block = videos_block(rows, [manifest.records[row] for row in rows])
    limits = plan.config.dataset.limits
    with closing(ViewCutter(looks_of(candidates), plan.protocol, limits)) as cutter:
        return scorer(cutter(block)).to_pylist()


def test_every_video_of_val_is_counted_once(plan, dataset):
    evaluation = collect(plan, scores(plan))
    assert list(evaluation.rows) == dataset.manifest.rows_of("val")
    assert set(evaluation.probabilities) == {"student-1", "student-2"}
    for probabilities in evaluation.probabilities.values():
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)


def test_any_split_can_be_evaluated_and_the_text_says_which(plan, dataset):
    records = tuple(replace(r, split="test") for r in dataset.manifest.records if r.split == "val")
    manifest = replace(dataset.manifest, records=records)
    test = replace(plan, manifest=manifest, split="test")
    evaluation = collect(test, scores(test))
    assert test.key != plan.key
    assert f"{len(records)} videos of test, 2x3 clips x crops, 0 failed" in evaluation.text
    assert evaluation.weights == {"student-1": "1", "student-2": "2"}


def test_other_groups_make_another_evaluation(plan, dataset):
    records = tuple(replace(r, group="all one") for r in dataset.manifest.records)
    regrouped = replace(plan, manifest=replace(plan.manifest, records=records))
    assert regrouped.manifest.digest == plan.manifest.digest
    assert regrouped.key != plan.key


def test_scores_do_not_depend_on_how_videos_are_grouped(plan):
    assert len(looks_of(plan.candidates)) == 1  # equal looks share one decoding
    alone = [score for row in plan.rows for score in scores(plan, [row])]
    together = scores(plan)
    key = lambda score: (score["row"], score["network"])  # noqa: E731
    for one, other in zip(sorted(alone, key=key), sorted(together, key=key), strict=True):
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], rtol=1e-5)


def test_a_bad_video_is_named_and_left_out_for_all(plan, config, dataset):
    row = plan.rows[0]
    broken = replace(dataset.manifest.records[row], uri=str(config.artefacts))
    records = list(dataset.manifest.records)
    records[row] = broken
    plan = replace(plan, manifest=Manifest("tiny", dataset.manifest.class_names, tuple(records)))
    found = scores(plan)
    assert {s["status"] for s in found if s["row"] == row}.isdisjoint({Status.GOOD})
    evaluation = collect(plan, found)
    assert row not in evaluation.rows
    assert list(evaluation.failures) == [broken.sample_id]
    assert broken.sample_id in evaluation.failures[broken.sample_id]


def test_a_flipped_bit_in_a_video_is_found(plan, dataset, tmp_path):
    row = plan.rows[0]
    content = bytearray(Path(dataset.manifest.records[row].uri).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "flipped.avi").write_bytes(content)
    records = list(dataset.manifest.records)
    records[row] = replace(records[row], uri=str(tmp_path / "flipped.avi"))
    plan = replace(plan, manifest=replace(dataset.manifest, records=tuple(records)))
    assert {score["status"] for score in scores(plan, [row])} == {Status.CHANGED}


def test_a_teacher_that_has_seen_val_is_said(plan, tmp_path):
    videos = [plan.manifest.records[row].sample_id for row in plan.rows]
    (tmp_path / "seen.txt").write_text("".join(f"{video}.mp4\n" for video in videos))
    teacher = plan.config.teacher.model_copy(update={"seen": (str(tmp_path / "seen.txt"),)})
    other = replace(plan, config=plan.config.model_copy(update={"teacher": teacher}))
    evaluation = collect(other, scores(plan))
    count = len(videos)
    said = f"the teacher was trained on {count} of these {count} videos of val (teacher.seen)"
    assert evaluation.summary["teacher_seen"] == [said]
    assert evaluation.text.endswith(said)
    assert other.key != plan.key


def test_a_video_too_few_or_too_many_is_an_error(plan):
    found = scores(plan)
    with pytest.raises(DatasetError, match="did not see 1 videos"):
        collect(plan, found[1:])
    with pytest.raises(DatasetError, match="evaluated twice"):
        collect(plan, [*found, found[0]])


def test_a_file_that_changed_under_the_run_is_refused(plan, config, dataset, tmp_path):
    write_student(config, tmp_path / "1.safetensors", dataset.manifest.class_names, seed=7)
    with pytest.raises(WeightsMismatch, match="other weights"):
        scores(plan)


def test_plans_that_cannot_be_are_refused(config, dataset, tmp_path):
    names = dataset.manifest.class_names
    file = write_student(config, tmp_path / "s.safetensors", names, seed=1)
    other = write_student(config, tmp_path / "o.safetensors", names[::-1], seed=1)
    bare = str(tmp_path / "bare.safetensors")
    network = build_network(config.student, num_classes=2, num_frames=4)
    write_weights(bare, network.state_dict(), {})

    def plan(*checkpoints, split="val"):
        plan_evaluation(config, checkpoints=checkpoints, with_teacher=False, split=split)

    with pytest.raises(DatasetError, match="no good video of split test; it has train, val"):
        plan(file, split="test")
    with pytest.raises(WeightsMismatch, match="not those of the manifest"):
        plan(other)
    with pytest.raises(ConfigError, match="given twice"):
        plan(file, file)
    with pytest.raises(WeightsMismatch, match="does not say how it was trained"):
        load_trained(bare)
    with pytest.raises(WeightsMismatch, match="names no classes"):
        plan(bare)


def test_a_trained_network_answers_as_in_training(config, dataset, tmp_path):
    uri = write_student(config, tmp_path / "s.safetensors", dataset.manifest.class_names, seed=1)
    trained = load_trained(uri)
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 32, 32, 3), dtype=np.uint8)
    network = trained.on(torch.device("cpu"))
    one, other = (network.probabilities(frames, batch_size=size) for size in (5, 2))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert trained.class_names == dataset.manifest.class_names
    assert trained.name == "student-1"
