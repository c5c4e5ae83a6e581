"""Nodes of a cluster that die under a job: one that works, the head, and the driver alone."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.logits.store import open_store
from tests.stages.chaos.conftest import NUM_UNITS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.trials import FORWARD, Step, Watch, check_tracked_once

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.timeout(1800)]

IN_THE_TEACHER = Step("in the teacher", FORWARD, nth=4)
NODE = {"num_cpus": 2, "object_store_memory": 100_000_000}
SETTINGS = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
HEAD_SECONDS = 120  # for a driver to give up a cluster whose head is gone


@contextmanager
def running_cluster(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_nodes: int
) -> Iterator[Any]:
    """Start a head that works nothing itself, and nodes whose processes are watched."""
    (tmp_path / "token").write_text("t" * 64)
    token = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    for name, value in {**watch.env, **SETTINGS, **token}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    # A folder of its own, or this cluster becomes the one that others on this machine find. Not
    # pytest's: a socket's path has 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-")
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(num_nodes):
            cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)  # its processes may still write their last lines


def raylet_of(process: psutil.Process) -> psutil.Process:
    return next(parent for parent in process.parents() if parent.name() == "raylet")


def test_a_working_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Any, straight: Any
) -> None:
    trial = experiment.caching(tmp_path / "trial")
    watch = trial.watch(IN_THE_TEACHER)
    with running_cluster(watch, tmp_path, monkeypatch, num_nodes=2) as cluster:
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
    with running_cluster(watch, tmp_path, monkeypatch, num_nodes=1) as cluster:
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
