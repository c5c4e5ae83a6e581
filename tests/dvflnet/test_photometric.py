"""Colour jitter against what each of its parts must do to a colour."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dvflnet.photometric import MEAN, STD, normalise, photometric

NEUTRAL = [256, 256, 256, 0, 0]
LUMA = torch.tensor([0.299, 0.587, 0.114])


@st.composite
def jitters(draw):
    """Draw one row of jitter, within and beyond what the view policy draws."""
    factors = [draw(st.integers(0, 768)) for _ in range(3)]
    return [*factors, draw(st.integers(-128, 128)), draw(st.integers(0, 1))]


@pytest.fixture(scope="module")
def clips():
    """Return two clips of five frames, uint8, (2, 5, 3, 6, 7)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 5, 3, 6, 7), dtype=torch.uint8, generator=generator)


def per_clip(*rows):
    return torch.tensor(rows)[:, None]


def jittered(clips, **changed):
    """Jitter both clips with neutral values but those named."""
    names = ("brightness", "contrast", "saturation", "hue", "grey")
    row = [changed.get(name, neutral) for name, neutral in zip(names, NEUTRAL, strict=True)]
    return photometric(clips, per_clip(row, row))


def in_channels_last_memory(clips):
    return clips.movedim(2, -1).contiguous().movedim(-1, 2)


def luma(clips):
    return torch.einsum("btchw,c->bthw", clips.float(), LUMA)


@pytest.mark.parametrize("num_jitters", [1, 5])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64])
def test_neutral_jitter_changes_no_bit(clips, num_jitters, dtype):
    neutral = torch.tensor(NEUTRAL, dtype=dtype).expand(2, num_jitters, 5)
    found = photometric(clips, neutral)
    assert found.dtype == torch.float32
    assert torch.equal(found, clips.float())


@given(jitters())
def test_range_and_shape(clips, row):
    before, jitter = clips.clone(), per_clip(row, NEUTRAL)
    found = photometric(clips, jitter)
    assert torch.equal(clips, before)
    torch.testing.assert_close(
        photometric(in_channels_last_memory(clips), jitter), found, rtol=0, atol=1e-3
    )
    assert found.shape == clips.shape
    assert found.min() >= 0.0
    assert found.max() <= 255.0
    assert torch.equal(found[1], clips[1].float())  # a clip's jitter is its own


@given(jitters())
def test_greys_stay_grey(clips, row):
    grey = clips[:, :, :1].expand(-1, -1, 3, -1, -1)
    found = photometric(grey, per_clip(row, row))
    assert (found.amax(2) - found.amin(2)).max() < 1e-3


def test_memory_layout_is_kept(clips):
    for batch in (clips, in_channels_last_memory(clips)):
        found = photometric(batch, per_clip(NEUTRAL, NEUTRAL))
        assert found.stride() == normalise(found).stride() == batch.stride()


def test_brightness_scales(clips):
    torch.testing.assert_close(jittered(clips, brightness=128), clips.float() * 0.5)
    assert torch.equal(jittered(clips, brightness=512), (clips.float() * 2.0).clamp(max=255.0))


def test_contrast_shrinks_towards_the_mean_luma_of_the_clip(clips):
    mean = luma(clips).mean((1, 2, 3))[:, None, None, None, None]
    expected = 0.5 * clips.float() + 0.5 * mean
    torch.testing.assert_close(jittered(clips, contrast=128), expected)
    flat = mean.expand(clips.shape)
    torch.testing.assert_close(jittered(clips, contrast=0), flat)


def test_contrast_of_a_frame_is_about_its_own_mean(clips):
    row = [256, 0, 256, 0, 0]
    found = photometric(clips, torch.tensor(row).expand(2, 5, 5))
    expected = luma(clips).mean((2, 3))[:, :, None, None, None].expand(clips.shape)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("change", [{"saturation": 0}, {"grey": 1}, {"grey": 1, "saturation": 900}])
def test_without_colour_only_the_luma_is_left(clips, change):
    expected = luma(clips)[:, :, None].expand(clips.shape)
    torch.testing.assert_close(jittered(clips, **change), expected, rtol=0, atol=1e-3)


def test_saturation_keeps_the_luma(clips):
    calm = clips // 4 + 96  # so that nothing is clamped
    torch.testing.assert_close(luma(jittered(calm, saturation=384)), luma(calm))


def test_hue_keeps_the_sum_of_the_channels_and_turns_back(clips):
    calm = clips // 4 + 96
    turned, turned_back = jittered(calm, hue=20), jittered(calm, hue=-20)
    for found in (turned, turned_back):
        torch.testing.assert_close(found.sum(2), calm.float().sum(2))
    torch.testing.assert_close(  # cos + cos: what is across cancels
        jittered(calm, hue=64) + jittered(calm, hue=-64),
        2 * calm.float().mean(2, keepdim=True).expand(calm.shape),
        rtol=0,
        atol=1e-3,
    )


def test_a_jitter_for_every_frame(clips):
    rows = [NEUTRAL, [128, 256, 256, 0, 0], NEUTRAL, [256, 256, 256, 0, 1], NEUTRAL]
    found = photometric(clips, torch.tensor([rows, rows]))
    assert torch.equal(found[:, [0, 2, 4]], clips[:, [0, 2, 4]].float())
    torch.testing.assert_close(found[:, 1], clips[:, 1] * 0.5)
    torch.testing.assert_close(found[:, 3], luma(clips)[:, 3, None].expand(2, 3, 6, 7))


def test_normalise(clips):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = (clips.double() - mean.double()) / std.double()
    torch.testing.assert_close(normalise(clips.float()), expected.float())
    assert torch.equal(normalise(clips), normalise(clips.float()))
    assert normalise(clips.double()).dtype == torch.float64
    assert torch.equal(normalise(in_channels_last_memory(clips)), normalise(clips))


@pytest.mark.parametrize(
    ("clip_shape", "clip_dtype", "jitter", "message"),
    [
        ((2, 5, 1, 4, 4), torch.uint8, torch.ones(2, 1, 5).int(), "expected clips"),
        ((2, 5, 3, 4, 4), torch.float32, torch.ones(2, 1, 5).int(), "of uint8"),
        ((2, 5, 3, 4, 4), torch.uint8, torch.ones(2, 3, 5).int(), "expected integer jitter"),
        ((2, 5, 3, 4, 4), torch.uint8, torch.ones(2, 1, 4).int(), "expected integer jitter"),
        ((2, 5, 3, 4, 4), torch.uint8, torch.ones(1, 1, 5).int(), "expected integer jitter"),
        ((2, 5, 3, 4, 4), torch.uint8, torch.ones(2, 1, 5), "of torch.float32"),
    ],
)
def test_mistakes_are_named(clip_shape, clip_dtype, jitter, message):
    with pytest.raises(ValueError, match=message):
        photometric(torch.zeros(clip_shape, dtype=clip_dtype), jitter)
    with pytest.raises(ValueError, match=r"expected clips \(B, T, 3, H, W\), got \(3, 4, 4\)"):
        normalise(torch.zeros(3, 4, 4))
