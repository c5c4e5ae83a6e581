"""The name of a run, which is the same for the same weights and no others."""

from dataclasses import replace

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import DatasetConfig
from pipeline.dataset.manifest import Manifest, VideoRecord
from pipeline.networks.recipe import student_recipe, teacher_recipe
from pipeline.training.train_plan import TrainPlan

VIDEOS = (VideoRecord("a/1", "a/1.avi", 0, "train"), VideoRecord("a/2", "a/2.avi", 0, "val"))
CONFIG = ExperimentConfig(
    artefacts="/artefacts", dataset=DatasetConfig(name="one", root="/videos", layout="folders")
)


def plan_of(role: str = "student", **settings) -> TrainPlan:
    """Plan a run with settings by their dotted names, ``__`` for the dot."""
    values = CONFIG.model_dump()
    for dotted, value in settings.items():
        *parents, leaf = dotted.split("__")
        section = values
        for name in parents:
            section = section[name]
        section[leaf] = value
    config = ExperimentConfig.model_validate(values)
    recipe = student_recipe(config) if role == "student" else teacher_recipe(config)
    return TrainPlan(config, recipe, Manifest("one", ("a",), VIDEOS), (0,), (1,), None, "")


def test_a_student_of_defaults_keeps_its_name() -> None:
    """Another name would train every student again that people have."""
    assert plan_of().name == "dvflnet-w0.2-t10-s0-32e1f7"


@pytest.mark.parametrize(
    ("role", "settings"),
    [
        ("student", {"train__num_loaders": 7}),
        ("student", {"train__audit_rate": 1.0}),
        ("student", {"train__selection": "last"}),
        ("student", {"teacher__precision": "bfloat16"}),
        ("student", {"cluster__worker_threads": 7}),
        ("teacher", {"teacher__train__num_loaders": 7}),
        ("teacher", {"teacher__min_top1": 0.5}),
        ("teacher", {"teacher__precision": "bfloat16"}),
        ("teacher", {"teacher__weights": "/teacher.pth"}),
        ("teacher", {"teacher__class_names": "as_dataset"}),
        ("teacher", {"loss__kind": "js"}),
    ],
)
def test_what_decides_no_weight_decides_no_name(role: str, settings: dict) -> None:
    assert plan_of(role, **settings).key == plan_of(role).key


@pytest.mark.parametrize(
    ("role", "settings"),
    [
        ("student", {"train__selection": "best"}),
        ("student", {"train__precision": "bfloat16"}),
        ("student", {"loss__kind": "js"}),
        ("student", {"loss__standardise": True}),
        ("student", {"loss__kind": "dkd", "loss__dkd_beta": 2.0}),
        ("student", {"student__num_frames": 4}),
        ("student", {"train__labels_per_class": 4}),
        ("teacher", {"teacher__train__labels_per_class": 4}),
        ("teacher", {"teacher__label_smoothing": 0.0}),
        ("teacher", {"teacher__train__seed": 1}),
        ("teacher", {"teacher__optim__lr": 0.2}),
        ("teacher", {"teacher__embed_dim": 8}),
    ],
)
def test_what_decides_weights_decides_the_name(role: str, settings: dict) -> None:
    assert plan_of(role, **settings).key != plan_of(role).key


def test_a_start_is_known_by_its_digest_wherever_it_lies() -> None:
    plans = [
        replace(plan_of(student__init="imagenet", student__init_weights=uri), init_digest="ab")
        for uri in ("/here.pth", "/there.pth")
    ]
    assert plans[0].key == plans[1].key != replace(plans[0], init_digest="cd").key


def test_the_selection_names_the_weights() -> None:
    for selection in ("last", "best"):
        plan = plan_of(train__selection=selection)
        assert plan.selected == getattr(plan.files, selection)


def test_labels_alone_have_one_name_whatever_the_distillation_would_be() -> None:
    names = {
        student_recipe(plan_of(**settings).config.baseline)
        for settings in (
            {},
            {"loss__kind": "dkd", "loss__dkd_alpha": 2.0},
            {"loss__standardise": 1},
        )
    }
    assert len(names) == 1


def test_held_back_labels_bring_two_more_students() -> None:
    assert list(CONFIG.students) == ["VFL-Net (labels)", "DVFL-Net (cache)"]
    few = plan_of(train__labels_per_class=4).config
    students = {
        title: (it.loss.distill_weight, it.train.labels_per_class, it.train.learn_from)
        for title, it in few.students.items()
    }
    assert students == {
        "VFL-Net (labels)": (0.0, 4, "all"),
        "VFL-Net (all labels)": (0.0, None, "all"),
        "DVFL-Net (labelled)": (0.2, 4, "labelled"),
        "DVFL-Net (cache)": (0.2, 4, "all"),
    }


def test_fresh_views_are_for_labels_alone() -> None:
    plain, fresh = (plan_of(train={"fresh_views": on}, loss={"distill_weight": 0}) for on in (0, 1))
    assert fresh.recipe.policy.seed != plain.recipe.policy.seed
    assert fresh.recipe.num_views > 1000
    assert not fresh.replays
    assert fresh.name != plain.name
    cached = plan_of(train={"fresh_views": True})
    assert cached.recipe.policy == plain.recipe.policy
    assert cached.name == plan_of().name  # it changes nothing there
