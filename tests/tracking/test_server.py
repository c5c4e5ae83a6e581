"""Networks in MLflow load without this package; databases that two jobs open at once."""

import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import mlflow
import pytest
import torch

from dvflnet import build_model
from dvflnet.deployed import ClipClassifier
from pipeline.errors import ConfigError, StorageUnavailable
from pipeline.storage.s3 import proxy_hint
from pipeline.tracking import run as tracked_run
from pipeline.tracking.server import connect, is_refusal, register_model
from tests.loopback import free_port
from tests.tracking.conftest import ROOT, only_run, opened


@pytest.mark.slow
def test_a_logged_model_answers_for_any_batch(empty_database: Path, tmp_path: Path) -> None:
    # MLflow writes models below a folder with % or # in its name, but does not find them there.
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"
    network = build_model("nano", 4, embed_dim=8, depths=(1, 1, 1, 1))
    model = ClipClassifier(network, motion_only=True).eval()  # as training prepared its clips
    with opened(uri) as run:
        metadata = {"class_names": ["a", "b"], "run": "dvflnet-w0.9-s0"}
        run.log_model(
            model, clip_shape=(2, 32, 32, 3), metadata=metadata, metrics={"top1": 0.75, "nll": 1.5}
        )
    (logged,) = only_run(uri).outputs.model_outputs
    mlflow.set_tracking_uri(uri)
    info = mlflow.models.get_model_info(f"models:/{logged.model_id}")
    assert info.metadata == metadata
    found = mlflow.get_logged_model(logged.model_id)
    assert found.name == "dvflnet-w0_9-s0"
    assert {it.key: it.value for it in found.metrics} == {"top1": 0.75, "nll": 1.5}
    assert info.signature.inputs.inputs[0].shape == (-1, 2, 32, 32, 3)
    versions = [register_model(uri, only_run(uri).info.run_id, "shapes") for _ in range(2)]
    assert versions == ["1", "1"]
    for name in (logged.model_id, "shapes@candidate"):
        loaded = mlflow.pytorch.load_model(f"models:/{name}")
        for num_clips in (1, 3):
            clips = torch.randint(256, (num_clips, 2, 32, 32, 3), dtype=torch.uint8)
            torch.testing.assert_close(loaded(clips), model(clips))


def test_a_run_without_a_model_is_not_registered(uri: str) -> None:
    with opened(uri):
        pass
    with pytest.raises(StorageUnavailable, match="has no model in MLflow"):
        register_model(uri, only_run(uri).info.run_id, "shapes-student")


def delete_experiment(uri: str, database: Path) -> None:
    with opened(uri):
        pass
    connect(uri).delete_experiment(only_run(uri).info.experiment_id)


def forget_the_schema(uri: str, database: Path) -> None:
    with closing(sqlite3.connect(database)) as tables, tables:
        tables.execute("UPDATE alembic_version SET version_num = 'older'")


def overwrite(uri: str, database: Path) -> None:
    database.write_bytes(b"no database " * 1000)


def put_a_file_there(uri: str, database: Path) -> None:
    shutil.rmtree(database.parent)
    database.parent.touch()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (delete_experiment, "deleted"),
        (forget_the_schema, "out-of-date database schema"),
        (overwrite, "not a database"),
        (put_a_file_there, "File exists|Not a directory"),
    ],
)
def test_what_no_waiting_mends_is_refused_at_once(uri, database, spoil, words) -> None:
    spoil(uri, database)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=f"refuses the run: .*({words})") as caught:
        opened(uri)
    assert time.monotonic() - started < 15
    assert "mlflow db upgrade" in str(caught.value)
    assert "tracking.experiment" in str(caught.value)


def test_a_name_that_mlflow_refuses_is_said(uri: str) -> None:
    with pytest.raises(ConfigError, match="exceeds the maximum"):
        opened(uri, experiment="x" * 501)


def test_a_locked_database_is_no_refusal(
    uri: str, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.2))
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connect(uri)
    assert not is_refusal(caught.value)


def test_a_proxy_in_the_way_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(tracked_run, "SERVER_SECONDS", 0.5)
    monkeypatch.setattr(tracked_run, "IDLE_SECONDS", 0.2)
    with opened("http://localhost:5000"):
        pass
    assert f"does not answer through the proxy {proxy} (name localhost in no_proxy" in caplog.text
    monkeypatch.setenv("no_proxy", "localhost")
    assert proxy_hint("http://localhost:5000") == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    connect = f"from pipeline.tracking.server import connect; connect('sqlite:///{tmp_path}/db')"
    command = [sys.executable, "-c", connect]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=250)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
