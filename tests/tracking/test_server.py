"""Networks in MLflow load without this package; databases that two jobs open at once."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import torch

from dvflnet import build_model
from dvflnet.deployed import ClipClassifier
from pipeline.errors import StorageUnavailable
from pipeline.tracking.server import register_model
from tests.tracking.conftest import ROOT, only_run, opened


@pytest.mark.slow
def test_a_logged_model_answers_for_any_batch(uri: str) -> None:
    network = build_model("nano", 4, embed_dim=8, depths=(1, 1, 1, 1))
    model = ClipClassifier(network, motion_only=True).eval()  # as training prepared its clips
    with opened(uri) as run:
        run.log_model(model, clip_shape=(2, 32, 32, 3), metadata={"class_names": ["a", "b"]})
    (logged,) = only_run(uri).outputs.model_outputs
    mlflow.set_tracking_uri(uri)
    info = mlflow.models.get_model_info(f"models:/{logged.model_id}")
    assert info.metadata == {"class_names": ["a", "b"]}
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


@pytest.mark.slow
def test_two_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    connect = f"from pipeline.tracking.server import connect; connect('sqlite:///{tmp_path}/db')"
    command = [sys.executable, "-c", connect]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=100)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
