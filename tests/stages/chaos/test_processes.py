"""Parts of a running job are killed: Ray starts them again, or the same command does."""

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_STEPS, NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.test_named_steps import MAX_REDONE, SNAPSHOT
from tests.stages.chaos.trials import (
    FORWARD,
    TRAIN_STEP,
    Step,
    Trial,
    check_tracked_once,
    last_weights,
    reading,
)

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

CLIPS = "pipeline.views.clip:clips_of"
DECODERS = Step("a decoding process", CLIPS, nth=3)
IN_STAGE_ONE = [
    DECODERS,
    Step("a teacher actor", FORWARD, nth=4),
    Step("a decoder actor", "pipeline.stages.cache_steps:UnitDecoder.__call__", nth=9),
    Step("a journal task", "pipeline.stages.cache_steps:journal_unit", nth=8),
]
IN_STAGE_TWO = [DECODERS, Step("a training worker", TRAIN_STEP, nth=6)]
GRACE_SECONDS = 30  # between SIGTERM and SIGKILL, on most clusters


def start_and_kill_parts(trial: Trial, steps: list[Step]) -> Any:
    job = trial.start(trial.watch(*steps))
    for place in range(len(steps)):
        assert job.stands_still(place), job.output
        job.stopped_process(place).kill()
    return job


def test_parts_of_stage_one(tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    with reading(trial.store, straight.root_digest):
        job = start_and_kill_parts(trial, IN_STAGE_ONE)
        assert job.wait() == 0, job.output
    assert open_store(trial.store).root_digest == straight.root_digest
    check_tracked_once(trial.database)
    parts = ", ".join(step.name.partition(" ")[2] for step in IN_STAGE_ONE)
    FIGURES.add(f"cache goes on without: {parts}", job.num_calls - NUM_UNITS, f"{NUM_UNITS} units")


def test_parts_of_stage_two(
    tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    job = start_and_kill_parts(trial, IN_STAGE_TWO)
    assert job.wait() == 0, job.output
    assert last_weights(trial.folder) == straight_weights
    redone = job.num_calls - NUM_STEPS
    assert redone <= MAX_REDONE
    check_tracked_once(trial.database)
    parts = ", ".join(step.name.partition(" ")[2] for step in IN_STAGE_TWO)
    FIGURES.add(f"train goes on without: {parts}", redone, f"{NUM_STEPS} steps")


def test_the_controller_of_ray_train(
    tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    job = trial.stop_at(Step("in the controller", SNAPSHOT, nth=2))
    job.stopped_process().kill()
    code = job.wait()
    resumed = trial.finish()
    assert last_weights(trial.folder) == straight_weights
    redone = job.num_calls + resumed.num_calls - NUM_STEPS
    FIGURES.add(f"train, its controller killed (exit code {code})", redone, f"{NUM_STEPS} steps")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_driver_of_stage_one(
    number: int, tmp_path: Path, experiment: Any, straight: Any
) -> None:
    """Its private Ray ends with it, whichever way it ends."""
    trial = experiment.caching(tmp_path / "trial")
    job = trial.stop_at(Step("in the teacher", FORWARD, nth=5))
    started = time.monotonic()
    job.process.send_signal(number)
    job.wait(GRACE_SECONDS)
    trial.wait_until_nothing_lives(GRACE_SECONDS - (time.monotonic() - started))
    kept = trial.fragments()
    resumed = trial.finish()
    assert open_store(trial.store).root_digest == straight.root_digest
    assert resumed.num_calls == NUM_UNITS - len(kept)
    check_tracked_once(trial.database)
    name = signal.Signals(number).name
    FIGURES.add(f"cache, {name} to the driver", job.num_calls - len(kept), f"{NUM_UNITS} units")


def test_sigterm_to_a_student_s_driver(
    tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    job = trial.stop_at(Step("in the second epoch", TRAIN_STEP, nth=7))
    started = time.monotonic()
    job.process.terminate()
    job.wait(GRACE_SECONDS)
    trial.wait_until_nothing_lives(GRACE_SECONDS - (time.monotonic() - started))
    resumed = trial.finish()
    assert last_weights(trial.folder) == straight_weights
    redone = job.num_calls + resumed.num_calls - NUM_STEPS
    assert redone <= MAX_REDONE
    check_tracked_once(trial.database)
    FIGURES.add("train, SIGTERM to the driver", redone, f"{NUM_STEPS} steps")
