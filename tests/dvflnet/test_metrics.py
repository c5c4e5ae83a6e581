"""The metrics against plain NumPy loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dvflnet.metrics import (
    agreement,
    calibration_bins,
    confusion_matrix,
    evaluate_logits,
    topk_accuracy,
)


@st.composite
def labelled_logits(draw):
    """Draw student logits, labels and teacher logits: (N, K), (N,), (N, K)."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_rows, num_classes = draw(st.integers(1, 40)), draw(st.integers(2, 9))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0, 40.0]))
    logits = torch.randn(2, num_rows, num_classes, generator=generator) * scale
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    return logits[0], labels, logits[1]


@given(labelled_logits())
def test_all_scores(drawn):
    logits, labels, teacher_logits = drawn
    scores = evaluate_logits(logits, labels, teacher_logits)
    probs, teacher_probs = softmax(logits), softmax(teacher_logits)
    rows = range(len(labels))
    picked = [int(label) for label in labels]

    ranks = [int((probs[row] > probs[row, picked[row]]).sum()) for row in rows]
    assert scores["top1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]))
    assert scores["top5"] == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    likelihoods = [probs[row, picked[row]] for row in rows]
    assert scores["nll"] == pytest.approx(-np.mean(np.log(likelihoods)), rel=1e-9)
    same = probs.argmax(1) == teacher_probs.argmax(1)
    assert scores["agreement"] == pytest.approx(same.mean())
    divergence = (teacher_probs * np.log(teacher_probs / probs)).sum(1).mean()
    assert scores["kl_to_teacher"] == pytest.approx(divergence, rel=1e-7, abs=1e-12)
    assert scores["ece"] == pytest.approx(naive_ece(probs, labels.numpy()), abs=1e-12)


def test_every_row_is_in_one_calibration_bin():
    logits, labels = torch.randn(100, 3) * 3, torch.randint(3, (100,))
    bins = calibration_bins(logits, labels)
    assert (bins.num_rows.shape, bins.num_rows.sum()) == ((15,), 100)
    assert bins.correct.sum() / 100 == pytest.approx(topk_accuracy(logits, labels, 1))


def test_equal_logits_rank_by_class_number_everywhere():
    logits, labels = torch.zeros(4, 4, dtype=torch.float16), torch.arange(4)
    assert [topk_accuracy(logits, labels, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert confusion_matrix(logits, labels)[:, 0].tolist() == [1, 1, 1, 1]
    assert agreement(logits, torch.eye(4)) == 0.25


def test_a_sure_network_is_calibrated_if_it_is_right():
    logits = 1e4 * torch.eye(5)
    right = evaluate_logits(logits, torch.arange(5))
    assert right == {"top1": 1.0, "top5": 1.0, "nll": 0.0, "ece": 0.0}
    wrong = evaluate_logits(logits, torch.arange(5).roll(1))
    assert wrong["ece"] == pytest.approx(1.0)
    assert math.isfinite(wrong["nll"])


def test_confusion_matrix_has_labels_in_rows():
    predictions, labels = [0, 1, 1, 2, 2, 2], torch.tensor([0, 0, 1, 2, 2, 1])
    confusion = confusion_matrix(torch.eye(4)[predictions], labels)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 2, 0], [0, 0, 0, 0]]


def test_half_types_are_not_summed_as_such():
    logits = torch.zeros(5000, 2, dtype=torch.float16)
    labels = torch.zeros(5000, dtype=torch.int32)
    scores = evaluate_logits(logits, labels, logits)
    assert scores["nll"] == pytest.approx(math.log(2.0), rel=1e-12)
    assert scores["kl_to_teacher"] == 0.0


@pytest.mark.parametrize(
    ("logits", "labels", "teacher", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), None, "N above 0"),
        (torch.zeros(3), torch.zeros(3).long(), None, r"logits \(N, K\)"),
        (torch.zeros(2, 3), torch.zeros(3).long(), None, r"\(2, 3\) and \(3,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), None, r"labels must be in 0\.\.2, got 0\.\.3"),
        (torch.zeros(2, 3), torch.tensor([-100, 0]), None, "labels must be in"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 4), "must have one shape"),
    ],
)
def test_mistakes_are_named(logits, labels, teacher, message):
    with pytest.raises(ValueError, match=message):
        evaluate_logits(logits, labels, teacher)


def softmax(logits):
    shifted = logits.double().numpy()
    powers = np.exp(shifted - shifted.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def naive_ece(probs, labels):
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    total = 0.0
    for lower in range(15):
        inside = (confidence > lower / 15) & (confidence <= (lower + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - correct[inside].mean())
    return total / len(labels)
