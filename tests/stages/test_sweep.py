"""A sweep on Ray Tune, from a store whose teacher is not there at all."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import TrialsFailed
from pipeline.logits.store import open_store
from pipeline.stages.cluster import LOCAL, ray_session
from pipeline.stages.sweep import run_sweep
from pipeline.stages.train import run_training
from pipeline.storage import files
from pipeline.training.plan import plan_student
from pipeline.training.sweep import plan_sweep
from tests.mlflow_server import find_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NOT_A_TEMPERATURE = 1e-40  # what is divided by it is infinite, so that the loss is NaN
GRID = {"distill_weights": (0.0, 0.5), "temperatures": (2.0, NOT_A_TEMPERATURE), "seeds": (0, 1)}
CLUSTER = {"worker_threads": 1, "object_store_bytes": 100_000_000}
TRAIN = {"epochs": 2, "batch_size": 4, "num_loaders": 1}


@pytest.fixture(scope="module")
def config(dataset: Any, sealed_store: str, tmp_path_factory: Any) -> Iterator[ExperimentConfig]:
    folder = tmp_path_factory.mktemp("sweep")
    config: ExperimentConfig = dataset.config(
        folder / "artefacts",
        store={"uri": sealed_store},
        train=TRAIN,
        cluster=CLUSTER,
        sweep=GRID,
        tracking={"log_model": False},
    )
    dataset.publish(config)
    assert not files.exists(config.teacher_weights_uri)
    with ray_session(config, LOCAL, num_cpus=2):
        yield config


def with_temperatures(config: ExperimentConfig, *temperatures: float) -> ExperimentConfig:
    sweep = config.sweep.model_copy(update={"temperatures": temperatures})
    return config.model_copy(update={"sweep": sweep})


def children_of(config: ExperimentConfig, run_id: str) -> list[Any]:
    where = f"tags.`mlflow.parentRunId` = '{run_id}'"
    return find_runs(config.tracking_uri, config.dataset.name, where)


@pytest.fixture(scope="module")
def broken(config: ExperimentConfig) -> str:
    """What a sweep says of which one cell cannot be trained."""
    before = open_store(config.store_uri).root_digest
    with pytest.raises(TrialsFailed) as caught:
        run_sweep(plan_sweep(config), LOCAL)
    assert open_store(config.store_uri).root_digest == before
    return str(caught.value)


@pytest.fixture(scope="module")
def swept(config: ExperimentConfig, broken: str) -> dict[str, Any]:
    """The same sweep without that cell."""
    return run_sweep(plan_sweep(with_temperatures(config, 2.0)), LOCAL)


@pytest.mark.slow
def test_a_failed_cell_is_named_and_the_others_finish(
    config: ExperimentConfig, broken: str
) -> None:
    assert "2 of 6 trials failed, the first is dvflnet-w0.5-t1e-40-s0-" in broken
    assert "the loss of step 0 is nan" in broken
    (parent,) = find_runs(config.tracking_uri, config.dataset.name, "tags.stage = 'sweep'")
    children = children_of(config, parent.info.run_id)
    statuses = sorted(run.info.status for run in children)
    assert statuses == ["FAILED"] * 2 + ["FINISHED"] * 4
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["sweep/failed"] == 2
    digest = open_store(config.store_uri).root_digest
    assert {run.data.tags["cache.root_digest"] for run in children} == {digest}


@pytest.mark.slow
def test_finished_trials_are_not_run_again(
    config: ExperimentConfig, swept: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not children_of(config, swept["run_id"])  # all were trained below the sweep before
    assert [trial["state"] for trial in swept["trials"]] == ["finished"] * 4
    assert run_sweep(plan_sweep(with_temperatures(config, 2.0)), LOCAL) == swept
    assert "swept already, nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_ends_as_train_student_does(
    config: ExperimentConfig, swept: dict[str, Any]
) -> None:
    loss = {"distill_weight": 0.5, "temperature": 2.0}
    alone = config.model_copy(update={"loss": config.loss.model_copy(update=loss)})
    metrics = run_training(plan_student(alone), LOCAL)["metrics"]
    trials = {(trial["distill_weight"], trial["seed"]): trial for trial in swept["trials"]}
    for name, value in trials[0.5, 0]["metrics"].items():
        assert metrics[f"last/{name}"] == value, name
