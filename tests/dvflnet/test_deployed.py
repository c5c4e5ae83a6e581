"""The shipped form of a network: bytes in, logits out, and nothing left that depends on weights."""

import pytest
import torch

from dvflnet import build_model
from dvflnet.deployed import ClipClassifier, folded, trace
from dvflnet.photometric import normalise, subtract_mean_frame

SHAPE = (4, 32, 32, 3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("nano", 5, 4, embed_dim=8, depths=(1, 1, 1, 1)).eval()


@pytest.fixture(scope="module")
def module(network):
    return folded(trace(ClipClassifier(network, motion_only=False), SHAPE))


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


@pytest.mark.parametrize("count", [1, 3, 8])
def test_folding_changes_no_answer(network, module, count):
    with torch.inference_mode():
        expected = ClipClassifier(network, motion_only=False)(clips_of(count))
        torch.testing.assert_close(module(clips_of(count)), expected, rtol=0, atol=1e-6)


def test_every_product_takes_a_constant(module):
    products = [
        node
        for node in module.graph.nodes
        if "linear" in str(node.target) or "conv" in str(node.target)
    ]
    # A block: three linears of f, two of f_temporal, h, h_temporal, proj, two of the MLP, four
    # levels. There are four blocks, four embeddings and the head.
    assert len(products) == 4 * 14 + 4 + 1
    assert {node.args[1].op for node in products} == {"get_attr"}


def test_what_is_folded_takes_no_more_room(network, module):
    stored = sum(tensor.untyped_storage().nbytes() for tensor in module.state_dict().values())
    needed = sum(parameter.nbytes for parameter in network.parameters())
    assert needed <= stored < 1.01 * needed
