"""A published checkpoint alone: its own config is held against ours, and any command takes it."""

import numpy as np
import pytest
import torch

from pipeline.config.load import resolved_yaml
from pipeline.errors import WeightsMismatch
from pipeline.networks.build import build_network
from pipeline.networks.teacher import check_teacher
from pipeline.networks.trained import TEACHER, load_trained
from pipeline.networks.weight_files import read_weights
from pipeline.results.prediction import Predictor, load_described
from pipeline.stages.evaluate import plan_evaluation
from pipeline.stages.evaluate_steps import Scorer, ViewCutter, looks_of, videos_block
from pipeline.stages.export import plan_export

HEAD = ("Bowling", "Croquet", "Archery")  # the order of the file's head; the data set has two
DESCRIBED = {
    "DATA": {"NUM_FRAMES": 4, "NUM_CLASSES": 3},
    "MODEL": {
        "TYPE": "videofocalnet_nano",
        "NUM_CLASSES": 3,
        "TUBELET_SIZE": 1,
        "FOCAL": {"EMBED_DIM": 8, "DEPTHS": [1, 1, 1, 1], "FOCAL_LEVELS": [2, 2, 2, 2]},
    },
    "TAG": "default",
}


@pytest.fixture
def config(dataset, tmp_path):
    """A student of one size and a teacher of another; nothing of them is trained here."""
    teacher = {"variant": "tiny", "depths": (2, 1, 1, 1), "class_names": HEAD}
    config = dataset.config(tmp_path / "artefacts", teacher=teacher)
    dataset.publish(config)
    return config


@pytest.fixture
def publish(config, tmp_path):
    """Write a checkpoint as the published code does; ``changes`` are of its own config."""

    def write(role, described=DESCRIBED, before="", **changes):
        torch.manual_seed(3)
        network = build_network(getattr(config, role), num_classes=3, num_frames=4)
        network.head.weight.data.normal_()
        own = {**described, "MODEL": {**described["MODEL"], **changes}}
        state = {f"{before}{name}": tensor for name, tensor in network.state_dict().items()}
        torch.save({"model": state, "config": own}, tmp_path / f"{role}.pth")
        return str(tmp_path / f"{role}.pth")

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FOCAL": {"USE_POSTLN": True}}, "FOCAL.USE_POSTLN True .* False"),
        ({"FOCAL": {"NORMALIZE_MODULATOR": True}}, "FOCAL.NORMALIZE_MODULATOR True"),
        ({"FOCAL": {"FOCAL_WINDOWS": [5, 5, 5, 5]}}, r"FOCAL_WINDOWS \[5, 5, 5, 5\]"),
        ({"TUBELET_SIZE": 2}, "TUBELET_SIZE 2 .* 1"),
        ({"NUM_CLASSES": 101}, "NUM_CLASSES 101 .* 3"),
    ],
)
def test_what_is_not_built_is_refused_by_name(publish, changes, message) -> None:
    with pytest.raises(WeightsMismatch, match=f"its own config says MODEL.*{message}"):
        read_weights(publish("student", **changes))


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"DATA": {"NUM_FRAMES": 16}, "MODEL": {}}, "DATA.NUM_FRAMES 16 .* 4"),
        ({"MODEL": {"TYPE": "videofocalnet_base"}}, "TYPE videofocalnet_base .*_nano"),
        ({"MODEL": {"FOCAL": {"DEPTHS": (1, 1, 2, 1)}}}, r"DEPTHS \(1, 1, 2, 1\) .*\[1, 1, 1, 1\]"),
    ],
)
def test_a_config_that_contradicts_ours_is_refused_with_both(
    publish, config, dataset, described, message
) -> None:
    with pytest.raises(WeightsMismatch, match=f"its own config says .*{message}"):
        load_trained(publish("student", described), config, dataset.manifest.class_names)


def test_the_sizes_say_whose_it_is(publish, config, dataset) -> None:
    names = dataset.manifest.class_names
    teacher = load_trained(publish("teacher", {"MODEL": {}}), config, names)
    student = load_trained(publish("student"), config, names)
    assert (teacher.name, teacher.recipe.role) == (TEACHER, "teacher")
    assert (student.name, student.recipe.role) == ("student", "student")
    assert student.class_names == teacher.class_names == names
    other = config.model_copy(update={"student": config.teacher})
    with pytest.raises(WeightsMismatch, match=r"sizes \(8, \(1, 1, 1, 1\)\)"):
        load_trained(student.uri, other, names)
    with pytest.raises(WeightsMismatch, match="the config of an experiment"):
        load_trained(student.uri)


def test_what_stands_before_the_names_is_said(publish, config) -> None:
    plan = plan_evaluation(config, networks=[publish("student", before="module.")])
    assert "networks  student ('module.' stripped from all names)" in plan.as_text()
    other = publish("student", {"MODEL": {}}, before="encoder.")
    with pytest.raises(WeightsMismatch, match=r"its tensors are called encoder\.patch_embed"):
        plan_evaluation(config, networks=[other])


def test_it_is_evaluated_without_a_store_or_a_student_of_ours(publish, config) -> None:
    uris = [publish("student"), publish("teacher", {"MODEL": {}})]
    plan = plan_evaluation(config, networks=uris, num_clips=2, num_crops=3)
    assert [network.name for network in plan.networks] == [TEACHER, "student"]
    assert plan_export(config, weights=uris[0], formats=["pt2"]).trained.name == "student"
    assert plan.networks[0].on(torch.device("cpu")).precision == config.teacher.precision
    rows, names = plan.rows[:2], plan.manifest.class_names
    cut = ViewCutter(looks_of(plan.candidates), plan.protocol, config.dataset.limits)
    clips = cut(videos_block(rows, [plan.manifest.records[row] for row in rows]))
    cut.close()
    scores = Scorer(plan.candidates, names, plan.protocol, config)(clips).to_pylist()
    assert len(scores) == 4
    np.testing.assert_allclose([sum(score["probabilities"]) for score in scores], 1.0)


def test_it_predicts_in_the_order_of_the_data_set_or_of_its_head(
    publish, config, dataset, tmp_path
) -> None:
    (tmp_path / "config.yaml").write_text(resolved_yaml(config))
    alone = config.model_copy(update={"artefacts": str(tmp_path / "elsewhere")})
    (tmp_path / "alone.yaml").write_text(resolved_yaml(alone))
    video, answers = dataset.manifest.records[0].uri, []
    for name in ("config", "alone"):
        trained = load_described(publish("student"), str(tmp_path / f"{name}.yaml"))
        with Predictor(trained) as predictor:
            answers.append(dict(predictor.predict(video).top(3)))
    two, three = answers
    assert (set(two), set(three)) == (set(dataset.manifest.class_names), set(HEAD))
    assert two["Archery"] / two["Bowling"] == pytest.approx(three["Archery"] / three["Bowling"])


def test_the_teacher_of_a_cache_is_held_to_its_config(publish, config, dataset) -> None:
    names = dataset.manifest.class_names
    for described, fits in (({"MODEL": {"TYPE": "videofocalnet_tiny"}}, True), (DESCRIBED, False)):
        teacher = config.teacher.model_copy(update={"weights": publish("teacher", described)})
        own = config.model_copy(update={"teacher": teacher})
        if fits:
            assert check_teacher(own, names)
        else:
            with pytest.raises(WeightsMismatch, match=r"videofocalnet_nano .*videofocalnet_tiny"):
                check_teacher(own, names)
