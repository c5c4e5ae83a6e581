"""Counted costs; ``results/test_costs`` compares them with the published ones."""

import pytest
import torch

from dvflnet import build_model
from dvflnet.cost import count_macs, count_parameters


def test_costs_of_nano() -> None:
    with torch.device("meta"):
        model = build_model("nano", 101)
    assert count_macs(model, num_frames=8, side=224) / 1e9 == pytest.approx(27.141, abs=5e-4)
    assert count_parameters(model) == 22_214_723


def test_counting_leaves_the_model_as_it_is() -> None:
    model = build_model("nano", 4, embed_dim=8, depths=(1, 1, 1, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, num_frames=2, side=32)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
