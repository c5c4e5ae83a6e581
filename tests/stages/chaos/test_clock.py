"""A clock that is a day off, and another day off the other way when the job starts again."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.logit_store.reader import open_store
from tests.stages.chaos.conftest import NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.test_named_steps import LINK
from tests.stages.chaos.trials import TRAIN_STEP, Step, check_tracked_once, last_weights

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("faketime") is None, reason="needs Debian's faketime"),
]

# Only the wall clock: whoever asks how long something took asks the other one.
AHEAD = ["env", "DONT_FAKE_MONOTONIC=1", "faketime", "-f", "+1d"]
BEHIND = ["env", "DONT_FAKE_MONOTONIC=1", "faketime", "-f", "-1d"]


def test_a_cache(tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    stop = Step("inside a fragment's write", LINK, when="unit-000003.parquet")
    killed = trial.stop_at(stop, prefix=AHEAD)
    killed.kill()
    kept = trial.fragments()
    resumed = trial.finish(prefix=BEHIND)
    assert open_store(trial.store).root_digest == straight.root_digest
    assert resumed.num_calls == NUM_UNITS - len(kept)
    check_tracked_once(trial.database)
    FIGURES.add("cache, clock +1 day, then -1", killed.num_calls - len(kept), f"{NUM_UNITS} units")


def test_a_student(tmp_path: Path, experiment: Any, straight: Any, straight_weights: str) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    killed = trial.stop_at(Step("in the second epoch", TRAIN_STEP, nth=7), prefix=AHEAD)
    killed.kill()
    trial.finish(prefix=BEHIND)
    assert last_weights(trial.folder) == straight_weights
    check_tracked_once(trial.database)
    FIGURES.add("train, clock +1 day, then -1", killed.num_calls - 4, "12 steps")
