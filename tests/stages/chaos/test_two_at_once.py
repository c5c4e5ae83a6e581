"""Jobs that run at the same time: never a mixed store, never a lost row."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import Step, Trial, check_tracked_once, last_weights, reading

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

PLANNED = Step("after the plan", "pipeline.storage.sealed.store:open_for_writing")
PLACED = Step("before the result is looked for", "pipeline.storage.locks:training_alone")


def start_together(trial: Trial, step: Step, *words: tuple[str, ...]) -> list[Any]:
    """Start jobs, and let them go on together once all have come to a step."""
    jobs = [trial.stop_at(step, *more) for more in words]
    for job in jobs:
        job.go_on()
    return jobs


def test_two_identical_caches(tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    with reading(trial.store, straight.root_digest), ThreadPoolExecutor(2) as threads:
        jobs = list(threads.map(lambda _: trial.finish(), range(2)))
    store = open_store(trial.store)
    store.verify()
    assert store.root_digest == straight.root_digest
    redone = sum(job.num_calls for job in jobs) - NUM_UNITS
    FIGURES.add("two identical caches at once", redone, f"{NUM_UNITS} units")


def test_two_caches_of_different_views(tmp_path: Path, experiment: Any, straight: Any) -> None:
    trial = experiment.caching(tmp_path / "trial")
    jobs = start_together(trial, PLANNED, (), ("views.seed=1",))
    codes = [job.wait() for job in jobs]
    assert sorted(codes) == [0, 2]
    loser = jobs[codes.index(2)]
    assert "views.seed: store" in loser.output
    assert loser.num_calls == 0
    assert (open_store(trial.store).root_digest == straight.root_digest) == (codes[0] == 0)
    open_store(trial.store).verify()
    FIGURES.add("two configs at one root: one is refused", 0, f"{NUM_UNITS} units")


def test_two_identical_students(
    tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    trial = experiment.training(tmp_path / "trial", straight.store)
    jobs = start_together(trial, PLACED, (), ())
    codes = [job.wait() for job in jobs]
    assert sorted(codes) == [0, 4]
    assert "is being trained by another job" in jobs[codes.index(4)].output
    assert last_weights(trial.folder) == straight_weights
    check_tracked_once(trial.database)
    FIGURES.add("two identical students at once: one is refused", 0, "12 steps")
