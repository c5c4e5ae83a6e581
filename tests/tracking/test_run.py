"""Runs as MLflow keeps them, through kills, restarts and a server that comes and goes."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure

from pipeline.config.load import load_config
from pipeline.tracking import run as tracked_run
from pipeline.tracking.run import is_unfinished
from tests.loopback import free_port
from tests.mlflow_server import find_runs, mlflow_server
from tests.tracking.conftest import EXPERIMENT, ROOT, config_for, only_run, opened, steps_of

# A job that logs steps 1 to 5 and works on until it is killed.
JOB = """
import argparse, time
from pipeline.stages.command_line import run_tool
from tests.tracking.conftest import opened
def work(_):
    with opened({uri!r}) as run:
        for step in range(1, 6):
            run.log_metrics(step, {{"train/loss": 1.0 / step}})
        time.sleep(600)
run_tool(work, argparse.Namespace(quiet=True))
"""


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def unfinished(uri: str) -> bool:
    return is_unfinished(config_for(uri), stage="train_student", key="5e1f")


def test_a_run_says_what_was_done(uri: str, database: Path) -> None:
    with opened(uri, {"cache.key": "77ab"}) as run:
        run.log_metrics(1, {"train/loss": 2.0})
        run.log_summary({"best/top1": 0.5})
        run.log_summary({"best/top1": 0.75})
        run.log_text("val/per_class.csv", "class,top1\n")
        run.log_figure("val/confusion.png", Figure())
        run.log_dataset("store", digest="ab" * 32, uri="s3://store", context="training")
    logged = only_run(uri)
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics == {"train/loss": 2.0, "best/top1": 0.75}
    assert {"stage": "train_student", "run.key": "5e1f", "cache.key": "77ab"}.items() <= (
        logged.data.tags.items()
    )
    assert len(logged.data.tags["git.commit"]) == 40
    assert logged.data.params["loss.distill_weight"] == "0.2"
    assert {name.partition(".")[0] for name in logged.data.params} == {"loss", "student"}
    assert "student.depths" not in logged.data.params  # null: not set, so not shown
    artifacts = Path(unquote(logged.info.artifact_uri.removeprefix("file://")))
    assert load_config(artifacts / "config/resolved.yaml") == config_for(uri)
    assert (artifacts / "val/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert (artifacts / "val/per_class.csv").read_text() == "class,top1\n"
    assert artifacts.is_relative_to(database.parent)  # and no folder beside it, whatever its name
    assert list(database.parent.parent.iterdir()) == [database.parent]
    assert run.link == f"mlflow server --backend-store-uri {shlex.quote(uri)}"  # no page answers
    assert find_runs(uri, EXPERIMENT, f"dataset.digest = '{'ab' * 8}'")  # the students of a store
    assert not find_runs(uri, EXPERIMENT, f"dataset.digest = '{'cd' * 8}'")


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_an_exception_is_the_status(uri: str, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), opened(uri):
        raise error
    assert only_run(uri).info.status == status


def test_a_finished_run_is_left_alone_unless_its_work_is_not_done(uri: str) -> None:
    for reopen in (False, True):
        with opened(uri, reopen_finished=reopen) as run:
            run.log_metrics(1, {"train/loss": 1.0 + reopen})
            run.log_metrics(2, {"train/loss": 0.5})
    assert steps_of(uri) == [1, 2]
    assert only_run(uri).info.status == "FINISHED"
    assert not unfinished(uri)
    with opened(uri):
        pass
    assert len(find_runs(uri, EXPERIMENT)) == 2


def test_the_machine_is_watched_behind_the_first_number_of_the_stage(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setattr(tracked_run, "RENEW_SECONDS", 1.0)
    before = set(threading.enumerate())
    with opened(uri) as run:
        time.sleep(1)
        assert only_run(uri).data.metrics == {}
        run.log_metrics(1, {"val/top1": 0.5})
        cpu = "system/cpu_utilization_percentage"
        wait_until(lambda: len(steps_of(uri, cpu)) > 8)  # of more than one monitor
        started = set(threading.enumerate()) - before
    assert next(iter(only_run(uri).data.metrics)) == "val/top1"
    steps = steps_of(uri, cpu)
    assert steps == list(range(len(steps)))
    assert not list(elsewhere.iterdir())  # no mlflow.db of MLflow's own
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


def test_a_server_that_never_answers_costs_a_bounded_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracked_run, "SERVER_SECONDS", 0.2)
    monkeypatch.setattr(tracked_run, "IDLE_SECONDS", 0.2)
    started = time.monotonic()
    with opened(f"http://127.0.0.1:{free_port()}") as run:
        run.log_metrics(1, {"train/loss": 1.0})
        assert run.run_id is None
        assert run.link.startswith("http://127.0.0.1:")
    assert "4 entries never reached MLflow" in caplog.text  # opening, config, point and end
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        assert not unfinished(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - started < 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_job_reopens_its_run_and_repeats_no_step(uri: str, number: int) -> None:
    job = subprocess.Popen([sys.executable, "-c", JOB.format(uri=uri)], cwd=ROOT)
    wait_until(lambda: find_runs(uri, EXPERIMENT) and 5 in steps_of(uri))
    os.kill(job.pid, number)
    job.wait(60)
    killed = only_run(uri)
    assert killed.info.status == ("KILLED" if number == signal.SIGTERM else "RUNNING")
    assert unfinished(uri)
    with opened(uri) as run:
        for step in range(3, 9):  # from the last checkpoint
            run.log_metrics(step, {"train/loss": 1.0 / step})
    assert run.run_id == killed.info.run_id
    assert steps_of(uri) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert only_run(uri).info.status == "FINISHED"


@pytest.mark.server
@pytest.mark.timeout(600)
def test_nothing_is_lost_while_the_server_is_away(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_run, "SERVER_SECONDS", 0.5)
    database, port = Path(shutil.copy(empty_database, tmp_path / "mlflow.db")), free_port()
    run = opened(f"http://127.0.0.1:{port}")
    for step in range(1, 4):
        run.log_metrics(step, {"train/loss": 1.0 / step})
    run.log_text("notes.txt", "logged while nobody listened")
    with mlflow_server(database, port) as url:
        run.wait_opened(60)
        run.finish("FINISHED")
        logged = only_run(url)
        assert steps_of(url) == [1, 2, 3]
        assert logged.info.status == "FINISHED"
        assert logged.info.run_id == run.run_id
    (notes,) = tmp_path.rglob("notes.txt")
    assert notes.read_text() == "logged while nobody listened"
