"""The losses against ``torch.nn.functional``, and the facts that make a distillation loss one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dvflnet.losses import distill_loss, label_loss, published_distill_loss, weighted_loss

TEMPERATURES = st.sampled_from([0.5, 1.0, 2.0, 4.0, 10.0])
SETTINGS = {"distill_weight": 0.2, "temperature": 10.0, "label_smoothing": 0.1}


@st.composite
def logits_pairs(draw):
    """Draw student and teacher logits, (B, K) in float64, from calm to wild."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 12)))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    pair = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale
    return pair[0], pair[1]


@given(logits_pairs(), TEMPERATURES)
def test_distill_loss_is_kl_div_times_the_squared_temperature(pair, temperature):
    student, teacher = pair
    soft_targets = F.softmax(teacher / temperature, dim=1)
    log_probs = F.log_softmax(student / temperature, dim=1)
    expected = temperature**2 * F.kl_div(log_probs, soft_targets, reduction="batchmean")
    found = distill_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@given(logits_pairs(), TEMPERATURES)
def test_distill_loss_is_never_negative(pair, temperature):
    assert distill_loss(*pair, temperature=temperature) >= -1e-12


@given(logits_pairs(), TEMPERATURES, st.floats(-50.0, 50.0))
def test_distill_loss_and_its_gradient_are_zero_at_equality(pair, temperature, shift):
    teacher, _ = pair
    student = (teacher + shift).requires_grad_()  # softmax does not see a shift
    loss = distill_loss(student, teacher, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-9
    assert gradient.abs().max() < 1e-10


@given(logits_pairs(), TEMPERATURES)
def test_gradient_is_the_difference_of_probabilities(pair, temperature):
    student, teacher = pair
    student.requires_grad_()
    loss = distill_loss(student, teacher, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    gap = F.softmax(student / temperature, dim=1) - F.softmax(teacher / temperature, dim=1)
    expected = gap.detach() * temperature / len(student)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)


def test_gradient_at_high_temperature_does_not_depend_on_it():
    student, teacher = torch.randn(2, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    loss = distill_loss(student, teacher, temperature=1e4)
    (gradient,) = torch.autograd.grad(loss, student)
    gap = (student - student.mean()) - (teacher - teacher.mean())
    torch.testing.assert_close(gradient, gap.detach() / 5, rtol=1e-3, atol=1e-4)


def test_the_student_must_cover_what_the_teacher_holds_possible():
    two_peaks = torch.tensor([[4.0, 4.0, -4.0]])
    one_peak, flat = torch.tensor([[8.0, -4.0, -4.0]]), torch.zeros(1, 3)
    narrow = distill_loss(one_peak, two_peaks, temperature=1.0)
    broad = distill_loss(flat, two_peaks, temperature=1.0)
    assert narrow > 5 * broad
    assert distill_loss(two_peaks, one_peak, temperature=1.0) < narrow / 5  # the other direction


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_wide_gaps_stay_finite(dtype):
    teacher = torch.tensor([[0.0, -1e4, 1e4], [1e4, 0.0, -1e4]], dtype=dtype)
    student = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    loss = distill_loss(student, teacher, temperature=1.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item())
    assert student.grad.isfinite().all()


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


@given(logits_pairs())
def test_published_loss_is_not_zero_at_equality_and_rewards_being_sure(pair):
    teacher = pair[0].clamp(-5.0, 5.0)
    equal = published_distill_loss(teacher, teacher, temperature=1.0)
    sure = 1000.0 * F.one_hot(teacher.argmax(1), teacher.shape[1]).double()
    assert equal < 0.0
    assert published_distill_loss(sure, teacher, temperature=1.0) <= equal


def test_published_loss_breaks_on_wide_gaps():
    teacher = torch.tensor([[0.0, 200.0]])
    assert published_distill_loss(torch.zeros(1, 2), teacher, temperature=1.0).isnan()


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
@pytest.mark.parametrize("kind", ["forward_kl", "published"])
def test_weighted_loss_is_the_weighted_sum(distill_weight, kind):
    student, teacher = torch.randn(2, 4, 9)
    labels = torch.tensor([0, 3, 8, 8])
    parts = weighted_loss(
        student, teacher, labels, **SETTINGS | {"distill_weight": distill_weight, "kind": kind}
    )
    measure = {"forward_kl": distill_loss, "published": published_distill_loss}[kind]
    assert parts.distill_loss == measure(student, teacher, temperature=10.0)
    assert parts.label_loss == label_loss(student, labels, label_smoothing=0.1)
    expected = distill_weight * parts.distill_loss + (1 - distill_weight) * parts.label_loss
    torch.testing.assert_close(parts.loss, expected)


def test_weight_zero_only_logs_the_teacher():
    student = torch.randn(2, 5, requires_grad=True)
    teacher = torch.randn(2, 5)
    labels = torch.tensor([1, 2])
    parts = weighted_loss(student, teacher, labels, **SETTINGS | {"distill_weight": 0.0})
    assert parts.loss is parts.label_loss
    assert parts.distill_loss == distill_loss(student, teacher, temperature=10.0)
    assert not parts.distill_loss.requires_grad


def test_weight_zero_is_safe_from_a_broken_teacher():
    student = torch.randn(2, 5, requires_grad=True)
    teacher = torch.full((2, 5), float("nan"))
    parts = weighted_loss(
        student, teacher, torch.tensor([1, 2]), **SETTINGS | {"distill_weight": 0.0}
    )
    parts.loss.backward()
    assert parts.distill_loss.isnan()
    assert parts.loss.isfinite()
    assert student.grad.isfinite().all()


def test_weight_zero_needs_no_teacher():
    parts = weighted_loss(
        torch.randn(2, 5), None, torch.tensor([1, 2]), **SETTINGS | {"distill_weight": 0.0}
    )
    assert parts.distill_loss == 0.0
    assert parts.loss == parts.label_loss


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distill_weight": 1.5}, r"distill_weight must be in \[0, 1\], got 1.5"),
        ({"distill_weight": float("nan")}, "distill_weight must be"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"kind": "reverse_kl"}, "unknown kind 'reverse_kl'; choose one of forward_kl, published"),
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
