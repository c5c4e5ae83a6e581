"""A sweep is killed between two students: what is trained stays, and the table is the same."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.storage.files import read_json
from tests.stages.chaos.conftest import NUM_STEPS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import Step, Trial, check_tracked_once

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

GRID = ("sweep.distill_weights=[0,0.5]", "sweep.temperatures=[2]", "sweep.seeds=[0,1]")
NUM_STUDENTS = 4
BEFORE_THE_THIRD = Step("a sweep", "pipeline.stages.sweep:TrialRuns._end", nth=3)


def students_of(trial: Trial) -> list[dict[str, Any]]:
    """Return what the sweep says of each student, but for the time that it took."""
    (sweep,) = (trial.folder / "artefacts" / "sweeps").glob("*/sweep.json")
    students = read_json(str(sweep))["trials"]
    return [{**student, "seconds": None, "run_id": None} for student in students]


def test_a_sweep_killed_between_two_students(
    tmp_path: Path, experiment: Any, straight: Any
) -> None:
    undisturbed = experiment.sweeping(tmp_path / "undisturbed", straight.store, *GRID)
    assert undisturbed.finish().num_calls == NUM_STUDENTS * NUM_STEPS

    trial = experiment.sweeping(tmp_path / "trial", straight.store, *GRID)
    job = trial.stop_at(BEFORE_THE_THIRD)
    job.kill()
    results = trial.folder / "artefacts" / "sweeps" / "trials"
    kept = {file: file.read_bytes() for file in results.glob("*.json")}
    assert len(kept) == 2
    again = trial.finish()
    assert f"2 of {NUM_STUDENTS} trials are trained already" in again.output
    assert len(list(results.glob("*.json"))) == NUM_STUDENTS
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert again.num_calls == 2 * NUM_STEPS  # of those that had no result yet
    assert students_of(trial) == students_of(undisturbed)
    check_tracked_once(trial.database, num_runs=1 + NUM_STUDENTS)
    redone = job.num_calls + again.num_calls - NUM_STUDENTS * NUM_STEPS
    FIGURES.add("sweep, between two students", redone, f"{NUM_STUDENTS * NUM_STEPS} steps")
