"""Both stages, killed at every step that has a name: the same command ends in the same artefact."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_STEPS, NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import (
    FORWARD,
    TRAIN_STEP,
    Step,
    check_tracked_once,
    last_weights,
    reading,
)

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

LINK, REPLACE = "pipeline.storage.files:os.link", "pipeline.storage.files:os.replace"
RAY_TRAIN = "ray.train.v2._internal.execution"
WRITE = "pipeline.stages.workers:RayWorker._write"
SNAPSHOT = f"{RAY_TRAIN}.checkpoint.checkpoint_manager:CheckpointManager._write_state_to_storage"
FINISH = "pipeline.tracking.run:TrackedRun.finish"
MAX_REDONE = 8  # steps of two epochs: since the last report, and of one report that was lost

CACHE_STEPS = [
    Step("after the plan", "pipeline.storage.sealed.store:open_for_writing"),
    Step("after the identity", "pipeline.storage.sealed.store:open_for_writing", "after"),
    Step("decoding", "pipeline.stages.cache_steps:UnitDecoder.__call__", nth=4),
    Step("in the teacher", FORWARD, "after", nth=4),
    Step("inside a fragment's write", LINK, when="unit-000003.parquet"),
    Step("between fragments", "pipeline.stages.cache_steps:journal_unit", "after", nth=5),
    Step("before the gathering", "pipeline.logits.store:gather_shard"),
    Step("inside a shard's write", LINK, when="/logits/c/1"),
    Step("between shards", "pipeline.logits.store:gather_shard", "after", nth=2),
    Step("inside the seal's write", LINK, when="seal.json"),
    Step("after the seal", "pipeline.logits.store:seal_logits", "after"),
    Step("before the end of the run in MLflow", FINISH),
]
TRAIN_STEPS = [
    Step("before the first step", TRAIN_STEP),
    Step("in the second epoch", TRAIN_STEP, nth=7),
    Step("inside a checkpoint's write", REPLACE, when="optimiser.pt", nth=2),
    Step("between checkpoint and report", WRITE, "after", nth=2),
    Step("before Ray Train's record of it", SNAPSHOT, nth=2),
    Step("after Ray Train's record of it", SNAPSHOT, "after", nth=2),
    Step("after the last report", "pipeline.results.training_run:publish_result"),
    Step("inside the result's write", REPLACE, when="result.json"),
    Step("before the end of the run in MLflow", FINISH),
]


def name_of(step: Step) -> str:
    return step.name.replace(" ", "-")


@pytest.mark.parametrize("step", CACHE_STEPS, ids=name_of)
def test_a_killed_cache(step: Step, tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    with reading(trial.store, straight.root_digest):
        killed = trial.stop_at(step)
        killed.kill()
        kept = trial.fragments()
        resumed = trial.finish()
    assert open_store(trial.store).root_digest == straight.root_digest
    assert kept.items() <= trial.fragments().items()  # not written again, not even with equal bytes
    assert resumed.num_calls == NUM_UNITS - len(kept)
    check_tracked_once(trial.database)
    FIGURES.add(f"cache, {step.name}", killed.num_calls - len(kept), f"{NUM_UNITS} units")


@pytest.mark.parametrize("step", TRAIN_STEPS, ids=name_of)
def test_a_killed_student(
    step: Step, tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    killed = trial.stop_at(step)
    killed.kill()
    resumed = trial.finish()
    assert last_weights(trial.folder) == straight_weights
    redone = killed.num_calls + resumed.num_calls - NUM_STEPS
    assert redone <= MAX_REDONE
    check_tracked_once(trial.database)
    FIGURES.add(f"train, {step.name}", redone, f"{NUM_STEPS} steps")
