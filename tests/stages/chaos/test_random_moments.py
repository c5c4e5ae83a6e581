"""Kills at moments that nobody chose: a job is killed again and again, then it may end."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_STEPS, NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import Trial, check_tracked_once, last_weights, reading

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(3600)]

KILLS = 5


def start_and_kill(trial: Trial, seconds: float) -> Any:
    """Kill a job after so many seconds, if it has not ended by then."""
    job = trial.start(trial.watch())
    deadline = time.monotonic() + seconds
    while job.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if job.process.poll() is None:
        job.kill()
    return job


@pytest.mark.parametrize("seed", range(2))
def test_a_cache_killed_five_times(
    seed: int, tmp_path: Path, experiment: Any, straight: Any
) -> None:
    draw, trial, num_forwards = random.Random(seed), experiment.caching(tmp_path / "trial"), 0
    with reading(trial.store, straight.root_digest):
        for _ in range(KILLS):
            before = trial.fragments()
            job = start_and_kill(trial, draw.uniform(0.2, 1.0) * straight.seconds)
            assert before.items() <= trial.fragments().items()
            num_forwards += job.num_calls
        num_forwards += trial.finish().num_calls
    assert open_store(trial.store).root_digest == straight.root_digest
    check_tracked_once(trial.database)
    redone = num_forwards - NUM_UNITS
    FIGURES.add(f"cache, {KILLS} random moments in a row", redone, f"{NUM_UNITS} units, in all")


@pytest.mark.parametrize("seed", range(2))
def test_a_student_killed_five_times(
    seed: int, tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    draw, num_steps = random.Random(seed), 0
    trial = experiment.training(tmp_path / "trial", straight.store)
    for _ in range(KILLS):
        num_steps += start_and_kill(trial, draw.uniform(0.4, 1.0) * straight.seconds).num_calls
    num_steps += trial.finish().num_calls
    assert last_weights(trial.folder) == straight_weights
    check_tracked_once(trial.database)
    redone = num_steps - NUM_STEPS
    FIGURES.add(f"train, {KILLS} random moments in a row", redone, f"{NUM_STEPS} steps, in all")
