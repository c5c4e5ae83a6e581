"""Loading state dicts: what is taken, what is refused, and what an image network becomes."""

import hashlib
import zlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dvflnet import build_model
from dvflnet.weights import (
    LoadReport,
    adopt_state,
    load_image_state,
    load_state,
    published_state,
    state_crc,
    state_digest,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("nano", num_classes=7, embed_dim=8).eval()


@pytest.fixture
def state(model):
    """Return other weights for the same network."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.state_dict().items()
    }


@pytest.fixture
def image_state(state):
    """Return the weights of an image network of the same sizes, with a head of 11 classes."""
    spatial = {name: tensor for name, tensor in state.items() if "_temporal" not in name}
    return spatial | {"head.weight": torch.randn(11, 64), "head.bias": torch.randn(11)}


def test_digest_and_crc_are_of_names_shapes_types_and_bytes():
    state = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3, dtype=torch.int64)}
    content = b"a|()|torch.int64|" + (3).to_bytes(8, "little")
    content += b"b|(2,)|torch.float32|" + bytes.fromhex("0000803f00000040")
    assert state_digest(state) == hashlib.sha256(content).hexdigest()
    assert state_crc(state) == zlib.crc32(content)


def test_digest_does_not_see_order_or_memory_layout():
    matrix = torch.arange(6.0).view(2, 3)
    state = {"a": matrix, "b": torch.ones(2)}
    turned = {"b": nn.Parameter(torch.ones(2)), "a": matrix.t().contiguous().t()}
    assert state_digest(state) == state_digest(turned)


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.ones(4)},
        {"a": torch.ones(2, 2)},
        {"a": torch.ones(4).double()},
        {"a": torch.tensor([1.0, 1.0, 1.0, 2.0])},
        {"a": torch.ones(4), "b": torch.ones(0)},
        {},
    ],
)
def test_digest_sees_everything_else(other):
    assert state_digest(other) != state_digest({"a": torch.ones(4)})


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "model_ema"])
def test_published_state_is_bare_or_in_a_container(state, key):
    container = {key: state, "optimizer": {}, "epoch": 3, "config": {}}
    for checkpoint in (state, container, container | {"model_ema": state}):
        found, stripped = published_state(checkpoint)
        assert list(found) == list(state)
        assert all(torch.equal(found[name], state[name]) for name in state)
        assert stripped == ""


@pytest.mark.parametrize(
    ("names", "found", "stripped"),
    [
        (["module.a", "module.b"], ["a", "b"], "module."),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"], "_orig_mod.module."),
        (["module.a", "b"], ["module.a", "b"], ""),
        (["a.module.b"], ["a.module.b"], ""),
    ],
)
def test_published_state_strips_what_wrapped_the_whole_network(names, found, stripped):
    state, prefix = published_state({name: torch.zeros(2) for name in names})
    assert (list(state), prefix) == (found, stripped)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "found list"),
        (torch.zeros(2), "found Tensor"),
        ({}, "at least one tensor"),
        ({"model": {}}, "at least one tensor"),
        ({"model": torch.zeros(2)}, "'model' must be a state dict"),
        ({"state_dict": {}, "epoch": 3}, "'state_dict' must be a state dict"),
        ({"epoch": 3}, "no tensor under epoch"),
        ({"model": {"a": torch.zeros(2), "b": "text"}}, "no tensor under b"),
    ],
)
def test_what_is_no_state_dict(checkpoint, message):
    with pytest.raises(ValueError, match=message):
        published_state(checkpoint)


def test_keep_the_head(model, state):
    report = load_state(model, state, head="keep")
    assert state_digest(model.state_dict()) == state_digest(state)
    assert report.taken == tuple(state)
    assert report.new_head == report.missing == report.unexpected == report.wrong_shape == ()
    assert report.as_text().startswith("130 tensors taken\n0 new head")


def test_a_report_on_a_file_of_other_names_is_short():
    report = LoadReport((), (), missing=tuple("abcdefghij"), unexpected=(), wrong_shape=())
    lines = report.as_text().splitlines()
    named = [f"  {name}" for name in "abcdefgh"]
    assert lines[2:12] == ["10 missing, fresh values kept", *named, "  and 2 more"]


@pytest.mark.parametrize("num_classes", [None, 7, 400])
def test_new_head_whatever_the_file_holds(model, state, num_classes):
    before = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    del state["head.weight"], state["head.bias"]
    if num_classes is not None:
        state |= {"head.weight": torch.ones(num_classes, 64), "head.bias": torch.ones(num_classes)}
    report = load_state(model, state, head="new")
    assert report.new_head == ("head.weight", "head.bias")
    assert len(report.taken) == 128
    assert torch.equal(model.head.weight, before["weight"])
    assert torch.equal(model.head.bias, before["bias"])
    assert torch.equal(model.norm.weight, state["norm.weight"])


@pytest.mark.parametrize(
    "load", [partial(load_state, head="keep"), partial(load_state, head="new"), adopt_state]
)
def test_every_difference_is_named_and_nothing_is_loaded(model, state, load):
    before = state_digest(model.state_dict())
    del state["norm.weight"]
    state["module.norm.weight"] = torch.ones(64)
    state["patch_embed.proj.bias"] = torch.ones(9)
    with pytest.raises(ValueError, match="do not fit the network") as caught:
        load(model, state)
    message = str(caught.value)
    assert "1 missing, fresh values kept\n  norm.weight\n" in message
    assert "1 unexpected, ignored\n  module.norm.weight\n" in message
    assert "1 wrong shape\n  patch_embed.proj.bias: (9,), the network has (8,)" in message
    assert state_digest(model.state_dict()) == before


@pytest.mark.parametrize(
    ("source", "target", "taken", "missing", "missing_parameters", "unexpected"),
    [
        ("tiny", "nano", 98, 30, 9_317_295, 112),
        ("tiny", "tiny", 210, 72, 21_587_556, 0),
        ("base", "base", 402, 144, 69_856_072, 0),
    ],
)
def test_counts_of_the_published_image_networks(
    source, target, taken, missing, missing_parameters, unexpected
):
    with torch.device("meta"):
        image_state = build_model(source, num_classes=1000).state_dict()
        model = build_model(target, num_classes=101)
    image_state = {name: t for name, t in image_state.items() if "_temporal" not in name}
    report = load_image_state(model, image_state, preserve_image_function=False)
    assert len(report.taken) == taken
    assert len(report.missing) == missing
    assert all("_temporal" in name for name in report.missing)
    own = model.state_dict()
    assert sum(own[name].numel() for name in report.missing) == missing_parameters
    assert len(report.unexpected) == unexpected
    assert report.new_head == ("head.weight", "head.bias")
    if target == "nano":  # it takes the first blocks of each stage
        blocks = {".".join(name.split(".")[1:4]) for name in report.taken if ".blocks." in name}
        assert blocks == {"0.blocks.0", "1.blocks.0", "2.blocks.0", "2.blocks.1", "3.blocks.0"}


def test_image_weights_leave_time_and_head_fresh(model, image_state):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_image_state(model, image_state, preserve_image_function=False)
    for name, tensor in model.state_dict().items():
        source = image_state if name in report.taken else before
        assert torch.equal(tensor, source[name]), name


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        ({"layers.0.blocks.0.gamma_1": torch.ones(8)}, None, "1 unexpected"),
        ({"layers.4.blocks.0.norm1.weight": torch.ones(8)}, None, "1 unexpected"),
        ({"patch_embed.norm.weight": torch.ones(9)}, None, "1 wrong shape"),
        ({}, "layers.2.blocks.1.norm1.bias", "layers.2.blocks.1.norm1.bias"),
        ({"layers.0.blocks.0.modulation.h_temporal.bias": torch.ones(8)}, None, "not an image"),
    ],
)
def test_other_differences_from_an_image_network_are_refused(
    model, image_state, changes, removed, message
):
    before = state_digest(model.state_dict())
    image_state |= changes
    image_state.pop(removed, None)
    with pytest.raises(ValueError, match=message):
        load_image_state(model, image_state, preserve_image_function=True)
    assert state_digest(model.state_dict()) == before


def test_preserved_image_function(image_state):
    """The pooled features of a clip become the mean of the image network's, frame by frame."""
    model = build_model("nano", num_classes=7, embed_dim=8).double().eval()
    image_state = {name: 0.3 * tensor.double() for name, tensor in image_state.items()}
    load_image_state(model, image_state, preserve_image_function=True)
    clips = torch.randn(2, 3, 3, 40, 33, dtype=torch.float64)
    expected = torch.stack(
        [image_features(image_state, frames, depths=(1, 1, 2, 1)).mean(0) for frames in clips]
    )
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(clips), expected, rtol=0, atol=1e-10)
    model(clips).square().sum().backward()  # and time can still be learned
    assert model.layers[0].blocks[0].modulation.h_temporal.weight.grad.any()


def image_features(state, frames, depths):
    """Run FocalNet on images (N, 3, H, W), channels first, from a state dict; return (N, C4)."""

    def norm(maps, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(maps.movedim(1, -1), weight.shape, weight, bias).movedim(-1, 1)

    def linear(maps, name):
        weight = state[f"{name}.weight"]
        return F.conv2d(maps, weight.view(*weight.shape[:2], 1, 1), state[f"{name}.bias"])

    def embed(maps, name):
        weight = state[f"{name}.proj.weight"]
        maps = F.conv2d(maps, weight, state[f"{name}.proj.bias"], stride=weight.shape[-1])
        return norm(maps, f"{name}.norm")

    def modulate(maps, name):
        dim = maps.shape[1]
        query, context, gates = linear(maps, f"{name}.f").split((dim, dim, 3), dim=1)
        gathered = 0
        for level, padding in enumerate((1, 2)):
            kernel = state[f"{name}.focal_layers.{level}.0.weight"]
            context = F.gelu(F.conv2d(context, kernel, padding=padding, groups=dim))
            gathered = gathered + context * gates[:, level, None]
        gathered = gathered + F.gelu(context.mean((2, 3), keepdim=True)) * gates[:, 2, None]
        return linear(query * linear(gathered, f"{name}.h"), f"{name}.proj")

    maps = embed(frames, "patch_embed")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            maps = maps + modulate(norm(maps, f"{name}.norm1"), f"{name}.modulation")
            hidden = F.gelu(linear(norm(maps, f"{name}.norm2"), f"{name}.mlp.fc1"))
            maps = maps + linear(hidden, f"{name}.mlp.fc2")
        if stage < 3:
            maps = embed(maps, f"layers.{stage}.downsample")
    return norm(maps, "norm").mean((2, 3))


def test_adopted_tensors_are_the_parameters(model, state):
    with torch.device("meta"):
        empty = build_model("nano", num_classes=7, embed_dim=8).eval()
    report = adopt_state(empty, state)
    load_state(model, state, head="keep")
    assert set(report.taken) == set(state)
    assert all(
        parameter.data_ptr() == state[name].data_ptr()
        for name, parameter in empty.named_parameters()
    )
    clip = torch.randn(1, 2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(empty(clip), model(clip))
    adopt_state(empty, {name: tensor.half() for name, tensor in state.items()})
    assert {parameter.dtype for parameter in empty.parameters()} == {torch.float32}
