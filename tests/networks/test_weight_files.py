"""Weight files: what is written comes back, and nothing in a foreign file is ever run."""

import io
import os
import pickle
import sys
import types
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from dvflnet.weights import state_digest
from pipeline.errors import WeightsMismatch
from pipeline.networks.weight_files import read_weights, write_weights


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "patch_embed.proj.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "head.weight": torch.randn(5, 4, generator=generator),
        "head.bias": torch.randn(5, generator=generator),
    }


@pytest.fixture
def yacs_node(monkeypatch):
    """Return a config node that pickles as yacs's does; yacs itself is not installed."""

    class CfgNode(dict):
        def __init__(self, entries):
            super().__init__(entries)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    return CfgNode({"MODEL": CfgNode({"NUM_CLASSES": 5}), "AUG": CfgNode({"MIXUP": 0.8})})


class Payload:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def assert_same(found, expected):
    assert list(found) == list(expected)
    assert state_digest(found) == state_digest(expected)


def test_round_trip(tmp_path, state):
    uri = str(tmp_path / "deep" / "student.safetensors")
    write_weights(uri, state, {"variant": "nano"}, class_names=["Archery", "Zumba, slow", "日本"])
    found = read_weights(uri)
    assert state_digest(found.state) == state_digest(state)
    assert found.metadata["variant"] == "nano"
    assert found.metadata["digest"] == state_digest(state)
    assert found.class_names == ("Archery", "Zumba, slow", "日本")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["student.safetensors"]
    (tmp_path / "foreign.safetensors").write_bytes(safetensors.torch.save(state))
    foreign = read_weights(str(tmp_path / "foreign.safetensors"))
    assert state_digest(foreign.state) == state_digest(state)
    assert foreign.metadata == {}


def test_any_layout_and_type_can_be_written(tmp_path):
    tied = torch.ones(4, 2)
    state = {
        "tied": tied,
        "to": tied[:2],
        "turned": nn.Parameter(torch.arange(6.0).view(2, 3).t()),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
        "nothing": torch.zeros(0, 4),
    }
    uri = str(tmp_path / "odd.safetensors")
    write_weights(uri, state, {})
    assert state_digest(read_weights(uri).state) == state_digest(state)


def test_tensors_are_mapped_and_outlive_their_file(tmp_path, state):
    path = tmp_path / "student.safetensors"
    write_weights(str(path), state, {})
    found = read_weights(str(path)).state
    assert str(path) in Path("/proc/self/maps").read_text()
    path.unlink()
    assert state_digest(found) == state_digest(state)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40, 63, 64, 200])
def test_equal_weights_lie_alike_in_memory_whatever_else_a_file_says(tmp_path, state, length):
    def places(name, metadata):
        write_weights(str(tmp_path / name), state, metadata)
        found = read_weights(str(tmp_path / name)).state
        return {key: tensor.data_ptr() % 64 for key, tensor in found.items()}

    assert places("a.safetensors", {}) == places("b.safetensors", {"note": "x" * length})


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
def test_a_bare_state_dict(tmp_path, state, suffix):
    path = tmp_path / f"bare{suffix}"
    torch.save(OrderedDict((name, nn.Parameter(tensor)) for name, tensor in state.items()), path)
    found = read_weights(str(path))
    assert_same(found.state, state)
    assert not any(tensor.requires_grad for tensor in found.state.values())
    assert (found.metadata, found.class_names) == ({}, ())


def test_a_published_container(tmp_path, state, yacs_node, monkeypatch):
    path = tmp_path / "ckpt_epoch_119.pth"
    container = {
        "model": OrderedDict(state),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(5)}}, "param_groups": [{}]},
        "lr_scheduler": {"base_values": [0.1], "seen": {1, 2}},
        "max_accuracy": np.float64(87.5),
        "epoch": 119,
        "config": yacs_node,
    }
    torch.save(container, path)
    monkeypatch.delitem(sys.modules, "yacs.config")
    monkeypatch.delitem(sys.modules, "yacs")
    found = read_weights(str(path))
    assert_same(found.state, state)
    assert "yacs" not in sys.modules
    assert found.described == {"MODEL.NUM_CLASSES": 5, "AUG.MIXUP": 0.8}


@pytest.mark.parametrize(
    "beside",
    [
        Namespace(lr=0.1, output=Path("/tmp"), device=torch.device("cpu"), size=torch.Size([2])),
        [PurePosixPath("a/b"), PureWindowsPath("a\\b")],
        [defaultdict(list, a=[1]), Counter("aab"), {1, 2}],
        [
            defaultdict(int, a=1),
            defaultdict(str),
            frozenset({1}),
            timedelta(1),
            types.SimpleNamespace(a=1),
        ],
        [np.arange(3.0), np.float32(1.5), np.dtype("int16"), np.array(["text"])],
    ],
    ids=["arguments", "paths", "collections", "builtins", "arrays"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_usual_beside_tensors_is_inert(tmp_path, state, beside, protocol):
    path = tmp_path / "student.ckpt"
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"args": beside, "state_dict": wrapped}, path, pickle_protocol=protocol)
    found = read_weights(str(path))
    assert_same(found.state, state)
    assert found.stripped == "module."


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_payload_is_named_and_does_not_run(tmp_path, state, protocol):
    trace = tmp_path / "it_ran"
    path = tmp_path / "evil.pth"
    payload = Payload(os.system, f"touch {trace}")
    torch.save({"model": state, "config": payload}, path, pickle_protocol=protocol)
    with pytest.raises(WeightsMismatch, match=r"evil\.pth .* asks for posix\.system") as caught:
        read_weights(str(path))
    assert "Nothing of it was run" in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (Payload(eval, "1 + 1"), "builtins.eval"),
        (Payload(getattr, "text", "upper"), "builtins.getattr"),
        (Payload(Path, "/tmp"), "pathlib.Path"),
        (Payload(partial, print), "functools.partial"),
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_whatever_is_not_known_is_refused_by_name(tmp_path, payload, named):
    path = tmp_path / "foreign.pth"
    torch.save({"model": payload}, path, pickle_protocol=4)
    with pytest.raises(WeightsMismatch, match=f"asks for .*{named.split('.')[-1]}"):
        read_weights(str(path))


def test_a_program_is_not_handed_to_torch_jit(tmp_path, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
    path = tmp_path / "program.pt"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(WeightsMismatch, match="it is a TorchScript program"):
        read_weights(str(path))


def test_a_member_marked_as_a_folder_is_noticed(tmp_path, state):
    """By one flipped bit PyTorch takes it for empty, and zipfile does not."""
    path = tmp_path / "marked.pth"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 38] |= 0x10  # of the first entry in the directory
    path.write_bytes(content)
    with pytest.raises(WeightsMismatch, match=r"marked\.pth is damaged in marked/data\.pkl"):
        read_weights(str(path))


@pytest.mark.parametrize("name", ["student.safetensors", "student.pth"])
@pytest.mark.parametrize("kind", ["empty", "text", "half", "zeros", "html"])
def test_what_is_no_weights_file(tmp_path, state, name, kind):
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save(state, path)
    else:
        write_weights(str(path), state, {})
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "half": whole[: len(whole) // 2],
        "zeros": bytes(1000),
        "html": b"<!DOCTYPE html>" * 200,
    }
    path.write_bytes(contents[kind])
    with pytest.raises(WeightsMismatch, match=rf"{name} is no whole .*Fetch it"):
        read_weights(str(path))


def test_a_checkpoint_from_before_the_zip_format(tmp_path, state):
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsMismatch, match=r"before PyTorch 1\.6"):
        read_weights(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.pth", "there is no weights file .*gone"), ("w.bin", r"must end in one of \.safeten")],
)
def test_names_that_lead_to_no_weights(tmp_path, name, message):
    (tmp_path / "w.bin").write_bytes(b"anything")
    with pytest.raises(WeightsMismatch, match=message):
        read_weights(str(tmp_path / name))
