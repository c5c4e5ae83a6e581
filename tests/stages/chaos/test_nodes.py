"""Nodes of a cluster that die under a job: one that works, the head, and the driver alone."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import FORWARD, Step, check_tracked_once
from tests.stages.nodes import running_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

IN_THE_TEACHER = Step("in the teacher", FORWARD, nth=4)
HEAD_SECONDS = 120  # for a driver to give up a cluster whose head is gone


def raylet_of(process: psutil.Process) -> psutil.Process:
    return next(parent for parent in process.parents() if parent.name() == "raylet")


def test_a_working_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Any, straight: Any
) -> None:
    trial = experiment.caching(tmp_path / "trial")
    watch = trial.watch(IN_THE_TEACHER)
    with running_cluster(tmp_path, monkeypatch, 2, watch.env) as cluster:
        job = trial.start(watch, "--ray-address", cluster.address)
        assert job.stands_still(), job.output
        raylet_of(job.stopped_process()).kill()
        assert job.wait() == 0, job.output
    assert open_store(trial.store).root_digest == straight.root_digest
    check_tracked_once(trial.database)
    FIGURES.add("cache, a node dies", job.num_calls - NUM_UNITS, f"{NUM_UNITS} units")


@pytest.mark.parametrize("what", ["driver", "head"])
def test_the_driver_or_the_head(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Any, straight: Any
) -> None:
    trial = experiment.caching(tmp_path / "trial")
    watch = trial.watch(IN_THE_TEACHER)
    with running_cluster(tmp_path, monkeypatch, 1, watch.env) as cluster:
        job = trial.start(watch, "--ray-address", cluster.address)
        assert job.stands_still(), job.output
        if what == "head":
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
            code = job.wait(HEAD_SECONDS)
            assert code != 0
        else:
            job.process.kill()
            code = job.wait()
        os.unlink(watch.stop_files[0])  # nobody may stand still for ever
        num_first, kept = job.num_calls, trial.fragments()
    trial.wait_until_nothing_lives()
    resumed = trial.finish()
    assert open_store(trial.store).root_digest == straight.root_digest
    check_tracked_once(trial.database)
    assert resumed.num_calls <= NUM_UNITS - len(kept)
    redone = num_first + resumed.num_calls - NUM_UNITS
    FIGURES.add(f"cache on a cluster, its {what} dies ({code})", redone, f"{NUM_UNITS} units")
