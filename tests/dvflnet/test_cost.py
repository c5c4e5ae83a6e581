"""Costs against the published networks' (GMAC of 8 frames of 224 x 224, 101 classes)."""

import pytest
import torch

from dvflnet import build_model
from dvflnet.cost import count_macs, count_parameters


@pytest.mark.parametrize(
    ("variant", "gmacs", "millions"), [("nano", 27.141, 22.215), ("base", 220.646, 157.083)]
)
def test_published_costs(variant: str, gmacs: float, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(variant, 101)
    assert count_macs(model, num_frames=8, side=224) / 1e9 == pytest.approx(gmacs, abs=5e-4)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_counting_leaves_the_model_as_it_is() -> None:
    model = build_model("nano", 4, embed_dim=8, depths=(1, 1, 1, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, num_frames=2, side=32)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
