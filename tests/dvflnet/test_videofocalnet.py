"""Sizes, shapes and behaviour of the network; ``test_parity`` compares its outputs."""

import copy

import pytest
import torch
from torch import nn

from dvflnet import VARIANTS, build_model
from dvflnet.videofocalnet import DropPath

# With 101 classes.
NUM_PARAMETERS = {"nano": 22_214_723, "tiny": 49_323_341, "small": 88_505_237, "base": 157_082_741}


@pytest.fixture(scope="module")
def small_model():
    """Return a network of 5 blocks that runs in milliseconds, in eval mode."""
    torch.manual_seed(0)
    return build_model("nano", num_classes=7, embed_dim=8).eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_order_of_the_state_dict(variant, golden_keys):
    golden = golden_keys(variant)
    with torch.device("meta"):
        model = build_model(variant, 101)
    found = [(name, list(tensor.shape)) for name, tensor in model.state_dict().items()]
    assert found == [(entry["key"], entry["shape"]) for entry in golden["keys"]]
    assert list(model.buffers()) == []
    assert sum(weight.numel() for weight in model.parameters()) == NUM_PARAMETERS[variant]


@pytest.mark.parametrize("num_frames", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (50, 36)])
def test_any_number_of_frames_and_any_sides(small_model, num_frames, height, width):
    with torch.no_grad():
        logits = small_model(torch.randn(2, num_frames, 3, height, width))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_clips_of_a_batch_do_not_mix(small_model):
    clips = torch.randn(3, 4, 3, 32, 32)
    with torch.no_grad():
        alone = torch.cat([small_model(clip[None]) for clip in clips])
        torch.testing.assert_close(small_model(clips), alone, rtol=0, atol=1e-5)
        channels_last = clips.movedim(2, -1).contiguous().movedim(-1, 2)
        torch.testing.assert_close(small_model(channels_last), alone, rtol=0, atol=1e-5)


def test_forward_keeps_nothing(small_model):
    model = copy.deepcopy(small_model).train()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    model(torch.randn(1, 2, 3, 32, 32)).sum().backward()
    for name, module in model.named_modules():
        assert set(vars(module)) == before[name]
        assert not [value for value in vars(module).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 8, 64, 64), r"expected a clip \(B, T, 3, H, W\)"),
        ((8, 3, 64, 64), r"expected a clip \(B, T, 3, H, W\)"),
        ((1, 8, 3, 31, 64), "at least 32 pixels"),
    ],
)
def test_clips_that_make_no_sense(small_model, shape, message):
    with pytest.raises(ValueError, match=message):
        small_model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "huge"}, "unknown variant 'huge'; choose one of nano, tiny, small, base"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"embed_dim": 0}, "embed_dim must be at least 1"),
        ({"depths": (1, 1, 1)}, "depths must be 4 counts"),
        ({"depths": (1, 0, 1, 1)}, "depths must be 4 counts"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\)"),
    ],
)
def test_sizes_that_make_no_network(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(**{"variant": "nano", "num_classes": 7} | arguments)


def test_a_fresh_network_is_initialised_as_published():
    torch.manual_seed(0)
    model = build_model("nano", num_classes=101, embed_dim=32)
    weight = model.layers[2].blocks[0].mlp.fc1.weight.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.02)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert all(not linear.bias.any() for linear in linears)
    assert model.patch_embed.proj.bias.any()  # convolutions keep PyTorch's own start


def test_drop_path_skips_whole_clips_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = DropPath(0.3).train()(torch.ones(4000, 2, 3, 1, 5))
    clips = dropped.flatten(1)
    assert torch.equal(clips.amin(1), clips.amax(1))  # one draw for all frames of a clip
    assert set(clips[:, 0].tolist()) == {0.0, float(torch.tensor(1.0) / 0.7)}
    assert float((clips[:, 0] == 0).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.04)
    assert DropPath(0.9).eval()(clips) is clips
    assert DropPath(0.0).train()(clips) is clips


def test_drop_path_rates_grow_from_zero_over_all_blocks():
    with torch.device("meta"):
        model = build_model("tiny", num_classes=2, drop_path_rate=0.2)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.2 * block / 11 for block in range(12)])
