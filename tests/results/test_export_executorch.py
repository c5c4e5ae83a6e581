"""Files for ExecuTorch, run by its runtime. `make test-export` installs what they need."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dvflnet.deployed import ClipClassifier
from pipeline.results.export import executorch
from pipeline.stages.export import plan_export, run_export
from tests.conftest import CLASS_NAMES
from tests.exported_programs import check_logits
from tests.untrained_student import write_student

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # ExecuTorch and torchao warn of each other
]
FILES = {"executorch float32": "student.pte", "executorch int8": "student-int8.pte"}


@pytest.fixture(scope="module")
def plan(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("executorch")
    tracking = {"uri": f"sqlite:///{folder / 'mlflow.db'}"}
    config = dataset.config(folder / "artefacts", tracking=tracking)
    dataset.publish(config)
    weights = write_student(config, folder / "last.safetensors", CLASS_NAMES, seed=1)
    return plan_export(config, weights=weights, formats=["executorch"], num_calibration_clips=12)


@pytest.fixture(scope="module")
def result(plan):
    torch.set_num_threads(1)
    return run_export(plan)


@pytest.fixture(scope="module")
def programs(plan, result):
    return {name: executorch.load(Path(plan.folder, file)) for name, file in FILES.items()}


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_batch_gets_the_logits_of_the_network(plan, programs, count):
    check_logits(programs, ClipClassifier(plan.trained.network, motion_only=False), count)


def test_int8_is_smaller(result):
    sizes = {name: entry["num_bytes"] for name, entry in result["files"].items()}
    assert sizes["executorch int8"] < 0.7 * sizes["executorch float32"]


@pytest.mark.parametrize("shape", [(1, 5, 32, 32, 3), (1, 4, 64, 64, 3)])
def test_other_clips_are_refused(programs, shape):
    for program in programs.values():
        with pytest.raises(RuntimeError):
            program(np.zeros(shape, np.uint8))


def test_files_explain_themselves(plan, result):
    for file in FILES.values():
        metadata = executorch.read_metadata(Path(plan.folder, file))
        assert metadata == plan.contract.metadata("1")
        assert metadata["input"].startswith("clip: uint8 (1, 4, 32, 32, 3)")
        assert json.loads(metadata["class_names"]) == list(CLASS_NAMES)
