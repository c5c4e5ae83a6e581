"""Networks run in a precision."""

import copy

import torch

from dvflnet import build_model
from pipeline.networks.forward import autocast, round_weights


def test_rounded_weights_give_the_logits_of_autocast():
    torch.manual_seed(0)
    network = build_model("nano", num_classes=7, embed_dim=8).eval()
    rounded = copy.deepcopy(network)
    round_weights(rounded, "bfloat16")
    clip = torch.randn(2, 4, 3, 32, 32)
    with torch.inference_mode(), autocast(torch.device("cpu"), "bfloat16"):
        expected, found = network.forward_features(clip), rounded.forward_features(clip)
    assert torch.equal(found, expected)
    assert rounded.layers[0].blocks[0].mlp.fc1.weight.dtype == torch.bfloat16
    assert {p.dtype for p in (*rounded.head.parameters(), *rounded.norm.parameters())} == {
        torch.float32
    }


def test_rounding_lets_go_of_what_was_there():
    network = build_model("nano", num_classes=7, embed_dim=8)
    before = network.state_dict()  # keeps the old memory from being used again
    round_weights(network, "bfloat16")
    assert all(
        tensor.data_ptr() != before[name].data_ptr()
        for name, tensor in network.state_dict().items()
    )
