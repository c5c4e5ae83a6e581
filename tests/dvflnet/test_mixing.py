"""Mixup and CutMix of whole clips, pixel by pixel."""

import torch

from dvflnet.losses import UNLABELLED
from dvflnet.mixing import GRID, SHARE_STEPS, Mixing, mix_clips, mix_labels, own_shares


def mixed(clips, partners, parameters):
    mixing = Mixing(torch.tensor(partners), torch.tensor(parameters, dtype=torch.int16))
    return mix_clips(clips, mixing)


def test_mixup_is_the_weighted_sum():
    clips = torch.randn(2, 3, 3, 8, 8)
    quarter = [SHARE_STEPS // 4, 0, 0, 0, 0]
    out = mixed(clips, [1, 0], [quarter, quarter])
    assert torch.equal(out[0], 0.25 * clips[0] + 0.75 * clips[1])
    assert torch.equal(out[1], 0.25 * clips[1] + 0.75 * clips[0])


def test_cutmix_has_one_box_in_all_frames():
    clips = torch.stack([torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)])
    box = [SHARE_STEPS, 0, GRID // 4, GRID // 2, GRID]  # the upper half, less its first quarter
    out = mixed(clips, [1, 0], [box, box])
    expected = torch.zeros(32, 32)
    expected[:16, 8:] = 1
    assert torch.equal(out[0], expected.expand(2, 3, 32, 32))
    assert torch.equal(out[1], 1 - expected.expand(2, 3, 32, 32))


def test_the_own_share_is_that_of_the_pixels():
    parameters = torch.tensor([[SHARE_STEPS, 10, 20, 100, 77], [700, 0, 0, 0, 0]])
    for side in (17, 32, GRID):
        clips = torch.stack([torch.ones(1, 3, side, side), torch.zeros(1, 3, side, side)])
        out = mix_clips(clips, Mixing(torch.tensor([1, 1]), parameters))[:1]
        torch.testing.assert_close(out.mean(), own_shares(parameters, side)[0])
    assert own_shares(parameters, GRID)[0] == 1 - 90 * 57 / GRID**2
    assert own_shares(parameters, 9)[1] == 700 / SHARE_STEPS


def test_a_clip_that_is_its_own_partner_stays_as_it_is():
    clips = torch.randn(3, 2, 3, 8, 8)
    out = mixed(clips, [0, 1], [[SHARE_STEPS, 0, 0, 0, 0]] * 2)
    assert torch.equal(out, clips[:2])  # the third is a partner of nobody


def test_a_mixture_has_a_label_only_if_both_clips_have_one():
    labels, partners = torch.tensor([0, 0, UNLABELLED, 2]), torch.tensor([1, UNLABELLED, 1, 2])
    box = [SHARE_STEPS, 0, 0, GRID // 2, GRID // 2]  # CutMix: a quarter is the partner's
    alone = [SHARE_STEPS, 0, 0, 0, 0]
    shares = own_shares(torch.tensor([box, box, box, alone]), GRID)
    mixed = mix_labels(labels, partners, shares, num_classes=3)
    assert mixed.tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert mix_labels(labels[:1], partners[1:2], shares[3:], 3).tolist() == [[1, 0, 0]]  # unmixed
