"""Heads run in float32 whatever the precision of the rest."""

import numpy as np
import torch

from dvflnet import build_model
from pipeline.networks.forward import ClipNetwork


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
