"""Checkpoints come back as they were written, or are refused by the name of a file."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError, StoreCorrupt
from pipeline.networks.weight_files import read_weights
from pipeline.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint

FILES = ["checkpoint.json", "weights.safetensors", "val_logits.safetensors", "optimiser.pt"]
FACTS = {"run": "dvflnet-w0.2", "store": "ab" * 32}


def state_after(step: int) -> TrainingState:
    """Take real steps, so that the optimiser has something to remember."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 3)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    for _ in range(step):
        optimiser.zero_grad()
        layer(torch.randn(4, 5)).square().sum().backward()
        optimiser.step()
    weights = {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}
    return TrainingState(step, 1.5 * step, torch.randn(6, 3), weights, optimiser.state_dict())


def write(folder: Path, step: int) -> Path:
    folder.mkdir()
    write_checkpoint(str(folder), state_after(step), class_names=("a", "b", "c"), facts=FACTS)
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "three", 3)


def refusal(folder: Path) -> str:
    with pytest.raises(PipelineError) as caught:
        read_checkpoint(str(folder))
    return str(caught.value)


def test_a_checkpoint_comes_back_bit_for_bit(folder):
    written, read = state_after(3), read_checkpoint(str(folder))
    assert (read.step, read.seconds) == (3, 4.5)
    assert torch.equal(read.val_logits, written.val_logits)
    assert read.weights.keys() == written.weights.keys()
    assert all(torch.equal(read.weights[name], written.weights[name]) for name in written.weights)
    assert read.optimiser["param_groups"] == written.optimiser["param_groups"]
    for place, memory in written.optimiser["state"].items():
        assert torch.equal(
            read.optimiser["state"][place]["momentum_buffer"], memory["momentum_buffer"]
        )


def test_it_is_four_files_and_the_weights_explain_themselves(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    weights = read_weights(str(folder / "weights.safetensors"))
    assert weights.class_names == ("a", "b", "c")
    assert FACTS.items() <= weights.metadata.items()
    assert json.loads((folder / "checkpoint.json").read_text())["facts"] == FACTS


def test_it_is_the_same_in_a_bucket(bucket):
    write_checkpoint(bucket, state_after(3), class_names=(), facts=FACTS)
    assert torch.equal(read_checkpoint(bucket).val_logits, state_after(3).val_logits)
    with pytest.raises(StoreCorrupt, match=f"{bucket}/nowhere/checkpoint.json"):
        read_checkpoint(f"{bucket}/nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_refused(folder, tmp_path, name):
    other = write(tmp_path / "four", 4)
    shutil.copy(other / name, folder / name)
    refused = refusal(folder)
    # With another record it is the others that differ.
    assert (name if name != "checkpoint.json" else "weights.safetensors") in refused
    with pytest.raises(StoreCorrupt):
        read_checkpoint(str(folder))
