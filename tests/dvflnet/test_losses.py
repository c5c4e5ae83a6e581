"""The losses against ``torch.nn.functional``, and the facts that make a distillation loss one."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dvflnet.losses import UNLABELLED, distill_loss, distill_terms, label_loss, weighted_loss

TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0, 10.0])
SETTINGS = {"distill_weight": 0.2, "temperature": 10.0, "label_smoothing": 0.1}
DISTANCES = ["forward_kl", "reverse_kl", "js", "dkd", "dist"]  # all kinds but the published one
ROWWISE = DISTANCES[:4]


@st.composite
def logits_pairs(draw, scales=(0.1, 1.0, 10.0, 100.0), smallest=(1, 2)):
    """Draw student and teacher logits, (B, K) in float64, from calm to wild."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(smallest[0], 4)), draw(st.integers(smallest[1], 12)))
    pair = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return tuple(pair * draw(st.sampled_from(scales)))


def calm_pairs():
    """Logits that differ from row to row in every class: what is constant has no correlation."""
    return logits_pairs(scales=(0.3, 1.0), smallest=(2, 3))


def rows_of(student, teacher, temperature=2.0, **settings):
    """The loss of each row, over T^2; the labels that DKD needs are the classes in turn."""
    labels = torch.arange(len(student)) % student.shape[1]
    return distill_terms(student, teacher, labels, temperature=temperature, **settings).sum(dim=1)


@given(logits_pairs(), TEMPERATURES)
def test_distill_loss_is_kl_div_times_the_squared_temperature(pair, temperature):
    student, teacher = pair
    soft_targets = F.softmax(teacher / temperature, dim=1)
    log_probs = F.log_softmax(student / temperature, dim=1)
    expected = temperature**2 * F.kl_div(log_probs, soft_targets, reduction="batchmean")
    found = distill_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", DISTANCES)
@given(st.data(), TEMPERATURES, st.floats(-50.0, 50.0), st.booleans())
def test_a_distance_and_its_gradient_are_zero_at_equality_alone(
    kind, data, temperature, shift, standardise
):
    pair = data.draw(calm_pairs() if kind == "dist" else logits_pairs())
    settings = {"temperature": temperature, "kind": kind, "standardise": standardise}
    assert rows_of(*pair, **settings).min() >= -1e-12
    student = (pair[1] + shift).requires_grad_()  # softmax does not see a shift
    rows = rows_of(student, pair[1], **settings)
    (gradient,) = torch.autograd.grad(rows.sum(), student)
    assert rows.abs().max() < 1e-8
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("kind", DISTANCES)
def test_gradients_are_those_of_finite_differences(kind, standardise):
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64).unbind()
    student.requires_grad_()
    settings = {"kind": kind, "standardise": standardise}
    assert torch.autograd.gradcheck(lambda logits: rows_of(logits, teacher, **settings), student)
    assert (rows_of(student, teacher, **settings) > 1e-3).all()


def test_the_student_must_cover_what_the_teacher_holds_possible():
    two_peaks = torch.tensor([[4.0, 4.0, -4.0]])
    one_peak, flat = torch.tensor([[8.0, -4.0, -4.0]]), torch.zeros(1, 3)
    narrow = distill_loss(one_peak, two_peaks, temperature=1.0)
    broad = distill_loss(flat, two_peaks, temperature=1.0)
    assert narrow > 5 * broad
    assert distill_loss(two_peaks, one_peak, temperature=1.0) < narrow / 5  # the other direction


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", DISTANCES)
def test_wide_gaps_stay_finite(kind, dtype):
    teacher = torch.tensor([[0.0, -1e4, 1e4], [1e4, 0.0, -1e4]], dtype=dtype)
    student = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    rows = rows_of(student, teacher, temperature=1.0, kind=kind)
    rows.sum().backward()
    assert rows.dtype == torch.float32
    assert rows.isfinite().all()
    assert student.grad.isfinite().all()
    if kind == "forward_kl":
        torch.testing.assert_close(
            rows, F.cross_entropy(student.float(), torch.tensor([2, 0])).expand(2)
        )


@pytest.mark.parametrize("kind", DISTANCES)
@given(calm_pairs(), st.lists(st.floats(0.1, 9.0), min_size=4, max_size=4), st.floats(-9.0, 9.0))
def test_standardised_logits_have_no_scale_and_no_shift(kind, pair, scales, shift):
    scale = torch.tensor(scales, dtype=torch.float64)[: len(pair[0]), None]
    settings = {"kind": kind, "standardise": True}
    expected = rows_of(*pair, **settings)
    for student, teacher in (
        (scale * pair[0] + shift, pair[1]),
        (pair[0], scale * pair[1] - shift),
    ):
        torch.testing.assert_close(rows_of(student, teacher, **settings), expected)
    z_scores = [(x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True) for x in pair]
    torch.testing.assert_close(rows_of(*z_scores, kind=kind), expected)


def test_rows_without_any_preference_can_be_standardised():
    student = torch.full((2, 7), 0.1, requires_grad=True)  # whose mean is another in float32
    rows = rows_of(student, torch.zeros(2, 7), standardise=True)
    rows.sum().backward()
    assert rows.tolist() == [0.0, 0.0]
    assert student.grad.isfinite().all()


@given(logits_pairs(), TEMPERATURES)
def test_reverse_and_js_by_their_definitions(pair, temperature):
    student, teacher = pair
    reverse = rows_of(student, teacher, temperature, kind="reverse_kl")
    torch.testing.assert_close(reverse, rows_of(teacher, student, temperature))
    js = rows_of(student, teacher, temperature, kind="js")
    sides = [F.softmax(logits / temperature, dim=1) for logits in pair]
    middle = (sides[0] + sides[1]) / 2
    kls = [torch.special.xlogy(side, side / middle).sum(dim=1) for side in sides]
    torch.testing.assert_close(js, (kls[0] + kls[1]) / 2, rtol=1e-7, atol=1e-9)
    assert js.max() <= math.log(2.0) + 1e-12
    torch.testing.assert_close(js, rows_of(teacher, student, temperature, kind="js"))


@given(logits_pairs(), TEMPERATURES)
def test_dkd_is_the_kl_in_two_parts_with_weights_of_their_own(pair, temperature):
    """KL = target part + (1 - the teacher's probability of the label) * part of the others."""

    def dkd(alpha, beta):
        weights = {"dkd_alpha": alpha, "dkd_beta": beta}
        return rows_of(*pair, temperature, kind="dkd", **weights)

    labels = torch.arange(len(pair[1]))[:, None] % pair[1].shape[1]
    sure = F.softmax(pair[1] / temperature, dim=1).gather(1, labels)[:, 0]
    kl = rows_of(*pair, temperature)
    torch.testing.assert_close(dkd(1.0, 0.0) + (1 - sure) * dkd(0.0, 1.0), kl)
    torch.testing.assert_close(
        rows_of(*pair, temperature, kind="dkd"), dkd(1.0, 0.0) + 8 * dkd(0.0, 1.0)
    )


@given(calm_pairs())
def test_dist_is_one_minus_the_correlations(pair):
    student, teacher = (F.softmax(logits / 2.0, dim=1) for logits in pair)

    def distances(first, second):
        couples = zip(first, second, strict=True)
        return torch.stack([1 - torch.stack(couple).corrcoef()[0, 1] for couple in couples])

    expected = distances(student, teacher) + distances(student.T, teacher.T).mean()
    torch.testing.assert_close(rows_of(*pair, kind="dist"), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ROWWISE)
@given(logits_pairs())
def test_a_row_has_its_loss_in_any_company(kind, pair):
    labels = torch.arange(len(pair[0])) % pair[0].shape[1]
    settings = {"kind": kind, "temperature": 2.0}
    alone = [
        distill_terms(student[None], teacher[None], label[None], **settings).sum()
        for student, teacher, label in zip(*pair, labels, strict=True)
    ]
    torch.testing.assert_close(torch.stack(alone), rows_of(*pair, **settings))


@pytest.mark.parametrize(
    ("student_dtype", "teacher_dtype", "loss_dtype"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.float16, torch.float32),
        (torch.float64, torch.float64, torch.float64),
        (torch.float64, torch.float16, torch.float64),
    ],
)
def test_types_are_widened_never_narrowed(student_dtype, teacher_dtype, loss_dtype):
    student = torch.randn(2, 5, dtype=student_dtype, requires_grad=True)
    teacher = torch.randn(2, 5, dtype=teacher_dtype)
    parts = weighted_loss(student, teacher, torch.tensor([0, 4]), **SETTINGS)
    parts.loss.backward()
    assert parts.loss.dtype == parts.distill_loss.dtype == loss_dtype
    assert student.grad.dtype == student_dtype


@given(logits_pairs(), st.sampled_from([0.0, 0.1, 0.5]))
def test_label_loss_smooths_to_the_stated_values(pair, smoothing):
    logits, _ = pair
    batch, num_classes = logits.shape
    labels = torch.arange(batch) % num_classes
    targets = torch.full((batch, num_classes), smoothing / num_classes, dtype=torch.float64)
    targets[torch.arange(batch), labels] = 1.0 - smoothing + smoothing / num_classes
    expected = -(targets * F.log_softmax(logits, dim=1)).sum(1).mean()
    found = label_loss(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_soft_labels_mix_the_losses_of_their_labels():
    logits = torch.randn(3, 6)
    first, second = torch.tensor([0, 1, 2]), torch.tensor([5, 1, 3])
    mixed = 0.3 * F.one_hot(first, 6).float() + 0.7 * F.one_hot(second, 6).float()
    found = label_loss(logits, mixed, label_smoothing=0.1)
    losses = [label_loss(logits, labels, label_smoothing=0.1) for labels in (first, second)]
    torch.testing.assert_close(found, 0.3 * losses[0] + 0.7 * losses[1])


@pytest.mark.parametrize("distill_weight", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("kind", [*DISTANCES, "published"])
def test_weighted_loss_is_the_weighted_sum(distill_weight, kind):
    student, teacher = torch.randn(2, 4, 9)
    labels = torch.arange(4)
    parts = weighted_loss(
        student, teacher, labels, **SETTINGS | {"distill_weight": distill_weight, "kind": kind}
    )
    rows = rows_of(student, teacher, temperature=10.0, kind=kind)
    torch.testing.assert_close(parts.distill_loss, 100.0 * rows.mean())
    assert parts.label_loss == label_loss(student, labels, label_smoothing=0.1)
    expected = distill_weight * parts.distill_loss + (1 - distill_weight) * parts.label_loss
    torch.testing.assert_close(parts.loss, expected)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "js"])
def test_clips_without_a_label_have_weight_one(kind):
    draws = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=draws) for _ in range(2))
    labels = torch.tensor([3, UNLABELLED, 0, UNLABELLED, UNLABELLED, 4])
    settings = {"temperature": 2.0, "label_smoothing": 0.1, "kind": kind}

    def loss_of(rows: slice, weight: float, some: bool):
        return weighted_loss(
            student[rows],
            teacher[rows],
            labels[rows],
            distill_weight=weight,
            some_unlabelled=some,
            **settings,
        )

    rows = [slice(row, row + 1) for row in range(6)]
    alone = [
        loss_of(row, 0.3, some=False) if label >= 0 else loss_of(row, 1.0, some=True)
        for row, label in zip(rows, labels.tolist(), strict=True)
    ]
    whole = loss_of(slice(None), 0.3, some=True)
    torch.testing.assert_close(whole.loss, sum(part.loss for part in alone) / 6)
    torch.testing.assert_close(whole.distill_loss, sum(part.distill_loss for part in alone) / 6)
    labelled = [part.label_loss for part, label in zip(alone, labels, strict=True) if label >= 0]
    torch.testing.assert_close(whole.label_loss, sum(labelled) / 3)
    # Two workers average their losses, whichever of them has the clips without a label.
    halves = [loss_of(half, 0.3, some=True).loss for half in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(whole.loss, sum(halves) / 2)
    for needless in ({"teacher_logits": None}, {"kind": "dkd"}):
        with pytest.raises(ValueError, match="without a label"):
            weighted_loss(
                **{"student_logits": student, "teacher_logits": teacher, "labels": labels}
                | settings
                | {"distill_weight": 0.0, "some_unlabelled": True}
                | needless
            )


@pytest.mark.parametrize("teacher", [torch.ones(2, 5), torch.full((2, 5), math.nan), None])
def test_weight_zero_only_logs_the_teacher_and_needs_none(teacher):
    student = torch.randn(2, 5, requires_grad=True)
    parts = weighted_loss(
        student, teacher, torch.tensor([1, 2]), **SETTINGS | {"distill_weight": 0}
    )
    parts.loss.backward()
    none = torch.tensor(0.0)
    logged = none if teacher is None else distill_loss(student, teacher, temperature=10.0)
    torch.testing.assert_close(parts.distill_loss, logged, equal_nan=True)
    assert not parts.distill_loss.requires_grad
    assert parts.loss == parts.label_loss
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distill_weight": 1.5}, r"distill_weight must be in \[0, 1\], got 1.5"),
        ({"distill_weight": float("nan")}, "distill_weight must be"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"kind": "kl"}, "unknown kind 'kl'; choose one of forward_kl, reverse_kl, js, dkd, dist"),
        ({"kind": "dkd", "labels": torch.zeros(2, 5)}, "dkd needs an integer label for every row"),
        ({"teacher_logits": None}, "needs teacher_logits"),
        ({"teacher_logits": torch.zeros(2, 6)}, r"shape of student_logits \(2, 5\), got \(2, 6\)"),
        ({"teacher_logits": torch.zeros(2, 5, dtype=torch.int64)}, "must be floating"),
        ({"student_logits": torch.zeros(5)}, r"student_logits must be floating, \(B, K\)"),
        ({"student_logits": torch.zeros(0, 5)}, "not empty"),
        ({"labels": torch.tensor([1])}, r"labels must be \(2,\), got \(1,\)"),
        ({"labels": torch.tensor([0, 5])}, r"labels must be in 0\.\.4, got 0\.\.5"),
        ({"labels": torch.tensor([-100, 0])}, r"labels must be in 0\.\.4, got -100\.\.0"),
        ({"labels": torch.zeros(2, 6)}, "soft labels must have the shape"),
    ],
)
def test_mistakes_are_named(changed, message):
    arguments = {
        "student_logits": torch.zeros(2, 5),
        "teacher_logits": torch.zeros(2, 5),
        "labels": torch.tensor([0, 1]),
        **SETTINGS,
    }
    with pytest.raises(ValueError, match=message):
        weighted_loss(**arguments | changed)
