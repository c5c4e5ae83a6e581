"""The forecast of a run: which part is slowest, and what a cache is worth."""

import json
import math
from dataclasses import asdict, replace

import pytest

from dvflnet import build_model
from pipeline.errors import ConfigError
from pipeline.networks.weight_files import write_weights
from pipeline.results.forecast import ClusterShape, UnitCosts, Workload, forecast, stage_one_rate
from pipeline.stages.forecast import forecast_experiment
from pipeline.storage.files import write_json

COSTS = UnitCosts(
    decode_seconds=0.03,
    teacher_seconds=0.002,
    journal_seconds=0.0001,
    student_decode_seconds=0.01,
    student_step_seconds=0.001,
)
WORKLOAD = Workload(
    num_cached_clips=9_000, num_classes=400, num_frames=8, num_train_clips=1_000, num_epochs=10
)
GPU_NODE = ClusterShape(num_nodes=1, cpus_per_node=10, gpus_per_node=1)
FEW_ACTORS = {"gpus_per_node": 0, "max_decoders": 4, "max_devices": 2}


@pytest.mark.parametrize(
    ("costs", "shape", "clips_per_second", "bottleneck"),
    [
        ({}, {}, 10 / 0.0301, "decode"),  # decoding and journal
        ({}, {"cpus_per_node": 32}, 500, "teacher"),
        ({}, {"cpus_per_node": 32, "num_nodes": 4}, 2000, "teacher"),
        ({}, {"gpus_per_node": 0}, 10 / 0.0321, "CPUs"),  # all share them
        ({"teacher_seconds": 0.1}, FEW_ACTORS, 2 / 0.1, "teacher"),
        ({}, FEW_ACTORS | {"max_devices": 10}, 4 / 0.03, "decode"),
    ],
)
def test_the_slowest_part_is_the_bottleneck(costs, shape, clips_per_second, bottleneck):
    rate = stage_one_rate(replace(COSTS, **costs), replace(GPU_NODE, **shape))
    assert (rate.clips_per_second, rate.bottleneck) == (pytest.approx(clips_per_second), bottleneck)


def test_the_cache_is_paid_when_the_teachers_time_is_saved():
    shape = replace(GPU_NODE, cpus_per_node=320)
    run = forecast(COSTS, shape, WORKLOAD)
    saved_seconds = WORKLOAD.num_train_clips * COSTS.teacher_seconds  # an epoch
    stage_one_seconds = WORKLOAD.num_cached_clips * COSTS.teacher_seconds
    assert run.break_even_epochs == pytest.approx(stage_one_seconds / saved_seconds)
    assert run.break_even_students == pytest.approx(run.break_even_epochs / 10)
    assert run.teacher_cores == pytest.approx(0.0301 / 0.002)
    assert run.student_cores == pytest.approx(10)
    assert "9.0 epochs, 0.90 students" in run.as_text()


def test_a_cache_gains_nothing_where_decoding_is_the_bottleneck():
    """The table of the specification: from source files, caching logits alone gains 1.0."""
    run = forecast(replace(COSTS, student_decode_seconds=0.1), GPU_NODE, WORKLOAD)
    assert run.cached_training == run.live_training
    assert run.cached_training.bottleneck == "decode"
    assert math.isinf(run.break_even_epochs)
    assert "never" in run.as_text()


def test_bytes_are_those_of_the_cells():
    assert WORKLOAD.num_bytes == 9_000 * (800 + 13 + 32)


@pytest.fixture
def config(dataset, tmp_path):
    config = dataset.config(tmp_path)
    dataset.publish(config)
    return config


def test_costs_are_measured_with_the_stages_own_parts(config, dataset, tmp_path):
    network = build_model("nano", 2, 4, embed_dim=8, depths=(1, 1, 1, 1))
    names = dataset.manifest.class_names
    write_weights(config.teacher_weights_uri, network.state_dict(), {}, class_names=names)
    found = forecast_experiment(config, ClusterShape(2, 4, 0))
    assert all(0 < seconds < 10 for seconds in asdict(found.costs).values())
    assert found.run.workload.num_cached_clips == 20 * 3 + 4
    uri = str(tmp_path / "costs.json")
    write_json(uri, asdict(found.costs))
    assert forecast_experiment(config, ClusterShape(2, 4, 0), costs_uri=uri) == found


@pytest.mark.parametrize(
    ("content", "cpus", "message"),
    [
        ("{}", 1, "must be a JSON object with decode_seconds"),
        ("nonsense", 1, "must be a JSON object with decode_seconds"),
        (json.dumps(asdict(COSTS) | {"more": 1}), 1, "must be a JSON object with decode_seconds"),
        (json.dumps(asdict(COSTS)), 0, "a cluster needs CPUs"),
        *(
            (json.dumps(asdict(COSTS) | {name: 0}), 1, f"{name} must be positive")
            for name in asdict(COSTS)
        ),
    ],
)
def test_wrong_costs_and_clusters_are_refused(config, tmp_path, content, cpus, message):
    path = tmp_path / "costs.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        forecast_experiment(config, ClusterShape(1, cpus, 1), costs_uri=str(path))
