"""Networks run in a precision."""

import copy
import subprocess
import sys

import numpy as np
import torch

from dvflnet import build_model
from pipeline.networks.forward import ClipNetwork, autocast, round_weights


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


def test_the_head_is_not_rounded_by_autocast():
    torch.manual_seed(0)
    network = build_model("nano", 4, embed_dim=8, depths=(1, 1, 1, 1)).eval()
    clips = ClipNetwork(network, torch.device("cpu"), "bfloat16", motion_only=True)
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = clips.logits(frames, None)
        exact = clips.exact_logits(frames, None)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact, rtol=1e-6, atol=1e-6)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_numerics_are_pinned_whatever_was_set_before():
    """In a process of its own, since it is for good."""
    check = """
import torch
torch.backends.fp32_precision = "tf32"
from pipeline.networks.numerics import pin_numerics
pin_numerics()
assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cudnn.rnn.fp32_precision == "ieee"
assert torch.backends.cuda.matmul.fp32_precision == "ieee"
torch.export.export(torch.nn.Conv2d(1, 1, 3), (torch.zeros(1, 1, 4, 4),))  # looks at older switches
"""
    subprocess.run([sys.executable, "-c", check], check=True)
