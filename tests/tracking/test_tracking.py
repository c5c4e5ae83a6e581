"""Runs as MLflow keeps them, through kills, restarts and a server that comes and goes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from dvflnet import build_model
from pipeline.config.load import load_config
from pipeline.config.schema import DatasetConfig, ExperimentConfig, TrackingConfig
from pipeline.errors import StorageUnavailable
from pipeline.tracking import run as tracked_run
from pipeline.tracking import server
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.server import (
    comparison_link,
    dataset_digest,
    find_runs,
    is_unfinished,
    open_run,
    register_model,
)
from tests.loopback import free_port
from tests.mlflow_server import mlflow_server

EXPERIMENT = "shapes"
ROOT = Path(__file__).parents[2]
# A job that logs steps 1 to 5, says so and works on until somebody ends it.
JOB = """
import time
from tests.tracking.test_tracking import config_for, opened
with opened(config_for({uri!r})) as run:
    for step in range(1, 6):
        run.log_metrics(step, {{"train/loss": 1.0 / step}})
    while run._outbox._entries:
        time.sleep(0.05)
    print("logged", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with tables and nothing in them; making them takes seconds."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    find_runs(f"sqlite:///{path}", "none")
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"


def config_for(uri: str) -> ExperimentConfig:
    dataset = DatasetConfig(name=EXPERIMENT, root="/videos", layout="folders", num_classes=4)
    return ExperimentConfig(
        artefacts="/artefacts", dataset=dataset, tracking=TrackingConfig(uri=uri)
    )


def opened(
    config: ExperimentConfig,
    tags: Mapping[str, str] | None = None,
    *,
    reopen_finished: bool = False,
) -> TrackedRun:
    return open_run(
        config,
        stage="train_student",
        name="nano",
        key="5e1f",
        sections=("loss", "student"),
        tags=tags or {},
        reopen_finished=reopen_finished,
    )


def statuses(uri: str) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in find_runs(uri, EXPERIMENT)}


def only_run(uri: str) -> Any:
    (run,) = find_runs(uri, EXPERIMENT)
    return run


def steps_of(uri: str, key: str = "train/loss") -> list[int]:
    run = only_run(uri)
    return [point.step for point in server._client(uri).get_metric_history(run.info.run_id, key)]


def artifact(uri: str, path: str) -> Path:
    return Path(only_run(uri).info.artifact_uri.removeprefix("file://"), path)


def test_a_run_says_what_was_done(uri: str) -> None:
    config = config_for(uri)
    with opened(config, {"cache.key": "77ab"}) as run:
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
    assert load_config(artifact(uri, "config/resolved.yaml")) == config
    assert artifact(uri, "val/confusion.png").read_bytes().startswith(b"\x89PNG")
    assert artifact(uri, "val/per_class.csv").read_text() == "class,top1\n"


def test_a_store_finds_its_students(uri: str) -> None:
    with opened(config_for(uri)) as run:
        run.log_dataset("store", digest="ab" * 32, uri="s3://store", context="training")
    where = "dataset.digest = '{}'"
    (student,) = find_runs(uri, EXPERIMENT, where.format(dataset_digest("ab" * 32)))
    assert student.info.run_id == run.run_id
    assert not find_runs(uri, EXPERIMENT, where.format(dataset_digest("cd" * 32)))


def test_links_open_the_right_pages(uri: str) -> None:
    with opened(config_for(uri)) as run:
        pass
    page = "http://127.0.0.1:5000/#/experiments/1/runs"
    assert run.link == f"{page}/{run.run_id}?workflowType=machine_learning"
    assert run.charts_link == f"{page}?compareRunsMode=CHART&workflowType=machine_learning"
    assert comparison_link("http://ui", [only_run(uri)]) == (
        f'http://ui/#/compare-runs?runs=["{run.run_id}"]&experiments=["1"]'
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_an_exception_is_the_status(uri: str, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), opened(config_for(uri)):
        raise error
    assert only_run(uri).info.status == status
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_is_left_alone(uri: str) -> None:
    for _ in range(2):
        with opened(config_for(uri)):
            pass
    assert len(find_runs(uri, EXPERIMENT)) == 2


def test_a_finished_run_is_reopened_if_its_work_is_not_done(uri: str) -> None:
    for reopen in (False, True):
        with opened(config_for(uri), reopen_finished=reopen) as run:
            run.log_metrics(1, {"train/loss": 1.0 + reopen})
            run.log_metrics(2, {"train/loss": 0.5})
    assert only_run(uri).info.status == "FINISHED"
    assert steps_of(uri) == [1, 2]


def test_the_machine_is_watched(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(tracked_run, "SYSTEM_SECONDS", 0.2)
    with opened(config_for(uri)):
        deadline = time.monotonic() + 30
        while not (metrics := only_run(uri).data.metrics) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert "system/cpu_utilization_percentage" in metrics
    assert not list(elsewhere.iterdir())  # MLflow's default database is not made besides


def test_the_machine_waits_for_the_first_number_of_the_stage(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_run, "SYSTEM_SECONDS", 0.5)
    with opened(config_for(uri)) as run:
        time.sleep(1.2)
        assert only_run(uri).data.metrics == {}
        run.log_metrics(1, {"val/top1": 0.5})
        deadline = time.monotonic() + 30
        while len(metrics := only_run(uri).data.metrics) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
    assert next(iter(metrics)) == "val/top1"
    assert "system/cpu_utilization_percentage" in metrics


def test_a_run_without_a_number_leaves_no_thread_behind(uri: str) -> None:
    before = set(threading.enumerate())
    with opened(config_for(uri)):
        started = set(threading.enumerate()) - before
    assert started
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)


def test_a_server_that_never_answers_costs_a_bounded_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "SERVER_SECONDS", 0.2)
    monkeypatch.setattr(tracked_run, "IDLE_SECONDS", 0.2)
    started = time.monotonic()
    with opened(config_for(f"http://127.0.0.1:{free_port()}")) as run:
        run.log_metrics(1, {"train/loss": 1.0})
        assert run.run_id is None
        assert run.link.startswith("http://127.0.0.1:")
    assert time.monotonic() - started < 5
    assert "2 entries never reached MLflow" in caplog.text  # the point and the end


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_resumed_job_reopens_its_run_and_repeats_no_step(uri: str, number: int) -> None:
    end_job_after_five_steps(uri, number)
    killed = only_run(uri)
    assert killed.info.status == ("KILLED" if number == signal.SIGTERM else "RUNNING")
    with opened(config_for(uri)) as run:
        for step in range(3, 9):  # from the last checkpoint
            run.log_metrics(step, {"train/loss": 1.0 / step})
    assert run.run_id == killed.info.run_id
    assert steps_of(uri) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert only_run(uri).info.status == "FINISHED"


@pytest.mark.slow
def test_a_killed_job_s_run_is_ended_by_the_next_of_another_kind(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_run, "SYSTEM_SECONDS", 0.5)  # steps are whole seconds
    monkeypatch.setattr(server, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(server, "SILENT_LOOKS", 5)
    end_job_after_five_steps(uri, signal.SIGKILL)
    assert is_unfinished(config_for(uri), stage="train_student", key="5e1f")
    other = open_run(config_for(uri), stage="doctor", name="d", key="d", sections=(), tags={})
    third = open_run(config_for(uri), stage="doctor", name="t", key="t", sections=(), tags={})
    deadline = time.monotonic() + 60
    while "KILLED" not in statuses(uri).values() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(6)  # more looks than a run without a job survives
    assert statuses(uri) == {"nano": "KILLED", "d": "RUNNING", "t": "RUNNING"}
    other.finish("FINISHED")
    third.finish("FINISHED")


def test_a_finished_run_is_not_unfinished(uri: str) -> None:
    with opened(config_for(uri)):
        pass
    assert not is_unfinished(config_for(uri), stage="train_student", key="5e1f")


def test_asking_a_server_that_is_away_takes_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SERVER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never answers
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert not is_unfinished(config_for(uri), stage="train_student", key="5e1f")
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_two_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    find = (
        f"from pipeline.tracking.server import find_runs; find_runs('sqlite:///{tmp_path}/db', 'x')"
    )
    command = [sys.executable, "-c", find]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=100)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


@pytest.mark.slow
def test_a_logged_model_answers_for_any_batch(uri: str) -> None:
    import mlflow

    model = build_model("nano", 4, embed_dim=8, depths=(1, 1, 1, 1)).eval()
    with opened(config_for(uri)) as run:
        run.log_model(model, num_frames=2, side=32, metadata={"class_names": ["a", "b"]})
    (logged,) = only_run(uri).outputs.model_outputs
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pytorch.load_model(f"models:/{logged.model_id}")
    for num_clips in (1, 3):
        clips = torch.randn(num_clips, 2, 3, 32, 32)
        torch.testing.assert_close(loaded(clips), model(clips))
    info = mlflow.models.get_model_info(f"models:/{logged.model_id}")
    assert info.metadata == {"class_names": ["a", "b"]}
    assert info.signature.inputs.inputs[0].shape == (-1, 2, 3, 32, 32)
    run_id = only_run(uri).info.run_id
    assert [register_model(uri, run_id, "shapes-student") for _ in range(2)] == ["1", "1"]
    candidate = mlflow.pytorch.load_model("models:/shapes-student@candidate")
    torch.testing.assert_close(candidate(clips), model(clips))


def test_a_run_without_a_model_is_not_registered(uri: str) -> None:
    with opened(config_for(uri)) as run:
        run.log_metrics(1, {"train/loss": 1.0})
    with pytest.raises(StorageUnavailable, match="has no model in MLflow"):
        register_model(uri, only_run(uri).info.run_id, "shapes-student")


@pytest.mark.server
@pytest.mark.timeout(600)
def test_nothing_is_lost_while_the_server_is_away(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SERVER_SECONDS", 0.5)
    monkeypatch.setattr(tracked_run, "IDLE_SECONDS", 60.0)
    database, port = Path(shutil.copy(empty_database, tmp_path / "mlflow.db")), free_port()
    run = opened(config_for(f"http://127.0.0.1:{port}"))
    run.log_metrics(1, {"train/loss": 1.0})
    with mlflow_server(database, port):
        run.wait_opened(60)
        run.log_metrics(2, {"train/loss": 0.5})
        run.log_text("notes.txt", "before")
        while run._outbox._entries:
            time.sleep(0.05)
    run.log_metrics(3, {"train/loss": 0.4})
    run.log_text("notes.txt", "after")
    with mlflow_server(database, port) as url:
        run.finish("FINISHED")
        logged = only_run(url)
        assert steps_of(url) == [1, 2, 3]
        assert logged.info.status == "FINISHED"
        assert logged.info.run_id == run.run_id
    assert [path.read_text() for path in tmp_path.rglob("notes.txt")] == ["after"]


def end_job_after_five_steps(uri: str, signal_number: int) -> None:
    code = JOB.format(uri=uri)
    job = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert job.stdout
    assert job.stdout.readline() == b"logged\n"
    os.kill(job.pid, signal_number)
    job.wait(60)
    job.stdout.close()
