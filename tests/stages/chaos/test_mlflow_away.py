"""MLflow that comes late, hangs and goes: training does not notice, nothing is logged twice."""

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.loopback import free_port
from tests.mlflow_server import mlflow_server
from tests.stages.chaos.conftest import NUM_STEPS
from tests.stages.chaos.figures import FIGURES
from tests.stages.chaos.test_named_steps import FINISH, SNAPSHOT
from tests.stages.chaos.trials import TRAIN_STEP, Step, check_tracked_once, last_weights

pytestmark = [pytest.mark.cluster, pytest.mark.server, pytest.mark.chaos, pytest.mark.timeout(1800)]

MOMENTS = [
    Step("in the first epoch", TRAIN_STEP, nth=2),
    Step("after the second epoch", SNAPSHOT, "after", nth=2),
    Step("before the end", FINISH),
]


def server_processes(port: int) -> list[psutil.Process]:
    me = psutil.Process()
    (server,) = [child for child in me.children() if str(port) in child.cmdline()]
    return [server, *server.children(recursive=True)]


def send(number: int, processes: list[psutil.Process]) -> None:
    for process in processes:
        os.kill(process.pid, number)


def test_late_then_hanging_then_back(
    tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    port = free_port()
    uri = f"tracking.uri=http://127.0.0.1:{port}"
    trial = experiment.training(tmp_path / "trial", straight.store, uri)
    job = trial.start(trial.watch(*MOMENTS))
    assert job.stands_still(0), job.output  # without a server so far
    with mlflow_server(trial.database, port):
        job.go_on(0)
        assert job.stands_still(1), job.output
        processes = server_processes(port)
        send(signal.SIGSTOP, processes)
        job.go_on(1)
        assert job.stands_still(2), job.output
        send(signal.SIGCONT, processes)
        job.go_on(2)
        assert job.wait() == 0, job.output
    assert job.num_calls == NUM_STEPS
    assert last_weights(trial.folder) == straight_weights
    check_tracked_once(trial.database)
    assert "does not answer; what is logged is kept until it does" in job.output
    FIGURES.add("train, MLflow late, then hanging, then back", 0, f"{NUM_STEPS} steps")


def test_gone_at_the_end(
    tmp_path: Path, experiment: Any, straight: Any, straight_weights: str
) -> None:
    port = free_port()
    uri = f"tracking.uri=http://127.0.0.1:{port}"
    trial = experiment.training(tmp_path / "trial", straight.store, uri)
    with mlflow_server(trial.database, port):
        job = trial.start(trial.watch(*MOMENTS[1:]))
        assert job.stands_still(0), job.output
        send(signal.SIGKILL, server_processes(port))
    job.go_on(0)
    assert job.stands_still(1), job.output
    job.go_on(1)
    assert job.wait() == 0, job.output
    assert last_weights(trial.folder) == straight_weights
    assert "never reached MLflow" in job.output
    FIGURES.add("train, MLflow gone at the end", 0, f"{NUM_STEPS} steps")
