"""The shipped form of a network: bytes in, logits out, and nothing left that depends on weights."""

import pytest
import torch

from dvflnet import build_model
from dvflnet.deployed import ClipClassifier
from dvflnet.photometric import normalise, subtract_mean_frame

SHAPE = (4, 32, 32, 3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("nano", 5, 4, embed_dim=8, depths=(1, 1, 1, 1)).eval()


def clips_of(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("motion_only", [False, True])
def test_bytes_give_what_prepared_clips_give(network, motion_only):
    clips = clips_of(2)
    prepared = normalise(clips.permute(0, 1, 4, 2, 3))
    if motion_only:
        prepared = subtract_mean_frame(prepared)
    with torch.inference_mode():
        found = ClipClassifier(network, motion_only=motion_only)(clips)
        torch.testing.assert_close(found, network(prepared), rtol=0, atol=0)
