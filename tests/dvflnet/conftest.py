"""The golden networks: parameters and inputs made by the recipe beside the golden numbers.

Every tensor is drawn from a generator seeded with the crc32 of its name, so no weights are stored;
``keys-*.json`` says which names, shapes and kinds there are. Source of the numbers: the model file
of github.com/hayatkhan8660-maker/DVFL-Net at c695f6a, run on CPU in eval mode.
"""

import functools
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dvflnet import VideoFocalNet, build_model

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "parity.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_facts() -> dict[str, Any]:
    return json.loads((GOLDEN / "parity-meta.json").read_text())


@pytest.fixture(scope="session")
def golden_keys() -> Callable[[str], dict[str, Any]]:
    return lambda variant: json.loads((GOLDEN / f"keys-{variant}.json").read_text())


@pytest.fixture(scope="session")
def golden_state(golden_keys) -> Callable[[str], dict[str, Tensor]]:
    @functools.cache
    def fill(variant: str) -> dict[str, Tensor]:
        entries = golden_keys(variant)["keys"]
        return {e["key"]: filled_tensor(e["key"], e["shape"], e["kind"]) for e in entries}

    return fill


@pytest.fixture(scope="session")
def golden_model(golden_state) -> Callable[..., VideoFocalNet]:
    def build(variant: str, dtype: torch.dtype = torch.float64) -> VideoFocalNet:
        with torch.device("meta"):
            model = build_model(variant, num_classes=101)
        state = {name: tensor.to(dtype) for name, tensor in golden_state(variant).items()}
        model.load_state_dict(state, assign=True)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def golden_clip(golden_facts) -> Callable[[str], Tensor]:
    @functools.cache
    def draw(case: str) -> Tensor:
        batch, frames, channels, height, width = golden_facts[case]["input_shape"]
        draws = np.random.RandomState(zlib.crc32(f"input:{case}".encode()))
        pixels = draws.standard_normal((batch, frames, channels, height, width))
        colours = draws.standard_normal((batch, frames, channels, 1, 1))
        blocks = draws.standard_normal((batch, frames, channels, height // 8, width // 8))
        clip = 0.5 * pixels + colours + blocks.repeat(8, axis=3).repeat(8, axis=4)
        return torch.from_numpy(clip.astype(np.float32))

    return draw


def filled_tensor(name: str, shape: list[int], kind: str) -> Tensor:
    draws = np.random.RandomState(zlib.crc32(name.encode()))
    normal = draws.standard_normal(shape)
    filled = {
        "bias": 0.1 * normal,
        "norm_weight": 1.0 + 0.1 * normal,
        "weight": normal / math.sqrt(math.prod(shape[1:])),
    }[kind]
    return torch.from_numpy(filled.astype(np.float32))
