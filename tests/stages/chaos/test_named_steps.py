"""Both stages, killed at every step that has a name: the same command ends in the same artefact."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.logit_store.reader import open_store
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

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
always = pytest.mark.chaos  # the first ones to run
campaign = pytest.mark.chaos

LINK, REPLACE = "pipeline.storage:os.link", "pipeline.storage:os.replace"
RAY_TRAIN = "ray.train.v2._internal.execution"
WRITE = "pipeline.train_worker:RayPlace._write"
SNAPSHOT = f"{RAY_TRAIN}.checkpoint.checkpoint_manager:CheckpointManager._write_state_to_storage"
FINISH = "pipeline.tracked_run:TrackedRun.finish"
MAX_REDONE = 8  # steps of two epochs: since the last report, and of one report that was lost

CACHE_STEPS = [
    (campaign, Step("after the plan", "pipeline.logit_store.writer:open_for_writing")),
    (campaign, Step("after the identity", "pipeline.logit_store.writer:open_for_writing", "after")),
    (campaign, Step("decoding", "pipeline.unit_actors:UnitDecoder.__call__", nth=4)),
    (campaign, Step("in the teacher", FORWARD, "after", nth=4)),
    (always, Step("inside a fragment's write", LINK, when="unit-000003.parquet")),
    (campaign, Step("between fragments", "pipeline.unit_actors:journal_unit", "after", nth=5)),
    (campaign, Step("before the gathering", "pipeline.logit_store.writer:gather_shard")),
    (campaign, Step("inside a shard's write", LINK, when="/logits/c/1")),
    (
        campaign,
        Step("between shards", "pipeline.logit_store.writer:gather_shard", "after", nth=2),
    ),
    (campaign, Step("inside the seal's write", LINK, when="seal.json")),
    (campaign, Step("after the seal", "pipeline.logit_store.writer:seal", "after")),
    (always, Step("before the end of the run in MLflow", FINISH)),
]
TRAIN_STEPS = [
    (campaign, Step("before the first step", TRAIN_STEP)),
    (campaign, Step("in the second epoch", TRAIN_STEP, nth=7)),
    (campaign, Step("inside a checkpoint's write", REPLACE, when="optimiser.pt", nth=2)),
    (always, Step("between checkpoint and report", WRITE, "after", nth=2)),
    (campaign, Step("before Ray Train's record of it", SNAPSHOT, nth=2)),
    (campaign, Step("after Ray Train's record of it", SNAPSHOT, "after", nth=2)),
    (campaign, Step("after the last report", "pipeline.train_report:publish_result")),
    (campaign, Step("inside the result's write", REPLACE, when="result.json")),
    (campaign, Step("before the end of the run in MLflow", FINISH)),
]


def cases(steps: Any) -> list[Any]:
    return [pytest.param(step, marks=mark, id=step.name.replace(" ", "-")) for mark, step in steps]


@pytest.mark.parametrize("step", cases(CACHE_STEPS))
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


@pytest.mark.parametrize("step", cases(TRAIN_STEPS))
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
