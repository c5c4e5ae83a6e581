"""A clock that is a day off, and another day off the other way when the job starts again.

The clock is the one that Python processes see: under faketime Ray does not start.
"""

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.test_named_steps import LINK
from tests.stages.chaos.trials import TRAIN_STEP, Step, check_tracked_once, last_weights

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

DAY_SECONDS = 86_400.0


def started_a_day_late(database: Path) -> bool:
    """Whether the job's clock was off: it told MLflow when it began."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        ((milliseconds,),) = connection.execute("SELECT start_time FROM runs").fetchall()
    return bool(abs(milliseconds / 1000 - time.time() - DAY_SECONDS) < DAY_SECONDS / 2)


def test_a_cache(tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    stop = Step("inside a fragment's write", LINK, when="unit-000003.parquet")
    trial.clock_seconds = DAY_SECONDS
    killed = trial.stop_at(stop)
    killed.kill()
    assert started_a_day_late(trial.database)
    kept = trial.fragments()
    trial.clock_seconds = -DAY_SECONDS
    resumed = trial.finish()
    assert open_store(trial.store).root_digest == straight.root_digest
    assert resumed.num_calls == NUM_UNITS - len(kept)
    check_tracked_once(trial.database)
    FIGURES.add("cache, clock +1 day, then -1", killed.num_calls - len(kept), f"{NUM_UNITS} units")


def test_a_student(tmp_path: Path, experiment: Any, straight: Any, straight_weights: str) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    trial.clock_seconds = DAY_SECONDS
    killed = trial.stop_at(Step("in the second epoch", TRAIN_STEP, nth=7))
    killed.kill()
    assert started_a_day_late(trial.database)
    trial.clock_seconds = -DAY_SECONDS
    trial.finish()
    assert last_weights(trial.folder) == straight_weights
    check_tracked_once(trial.database)
    FIGURES.add("train, clock +1 day, then -1", killed.num_calls - 4, "12 steps")
