"""The network against recorded outputs of the published one, from equal weights and inputs."""

import numpy as np
import pytest
import torch

from dvflnet.losses import distill_loss, distill_terms, weighted_loss

CASES = {"nano/64": "nano", "nano/t16": "nano", "nano/224": "nano", "tiny/64": "tiny"}
PROBES = (
    "patch_embed",
    "layers.0.blocks.0.modulation",
    "layers.0.blocks.0",
    "layers.0",
    "layers.1",
    "layers.2",
    "layers.3",
    "norm",
)
# name in the golden files -> settings of weighted_loss
TRAINING_LOSSES = {
    "ce": {"distill_weight": 0.0, "temperature": 1.0, "label_smoothing": 0.0},
    "ce_ls0.1": {"distill_weight": 0.0, "temperature": 1.0, "label_smoothing": 0.1},
    "kl_T10_T2_alpha0.2": {"distill_weight": 0.2, "temperature": 10.0, "label_smoothing": 0.0},
    "kl_T4_T2_alpha0.5": {"distill_weight": 0.5, "temperature": 4.0, "label_smoothing": 0.0},
}


@pytest.mark.parametrize(("case", "variant"), CASES.items())
def test_float64(case, variant, golden_model, golden_clip, golden_arrays):
    model = golden_model(variant)
    probes = record_outputs(model, PROBES)
    with torch.no_grad():
        features = model.forward_features(golden_clip(case).double())
        logits = model.head(features)
    assert_near(features, golden_arrays[f"{case}/features64"], 1e-9)
    assert_near(logits, golden_arrays[f"{case}/logits64"], 1e-9)
    for name, output in probes.items():
        assert_near(summary(output), golden_arrays[f"{case}/probe/{name}"], 1e-9)
    assert set(probes) == set(PROBES)


@pytest.mark.parametrize(("case", "variant"), [("nano/224", "nano"), ("tiny/64", "tiny")])
def test_float32(case, variant, golden_model, golden_clip, golden_arrays, golden_facts):
    with torch.no_grad():
        logits = golden_model(variant, torch.float32)(golden_clip(case))
    assert_near(logits, golden_arrays[f"{case}/logits32"], 5e-5)
    assert logits.argmax(1).tolist() == golden_facts[case]["top1"]


def test_losses_and_gradients(golden_model, golden_clip, golden_arrays, golden_facts):
    model = golden_model("nano")
    weights = dict(sorted(model.named_parameters()))
    teacher_logits = torch.from_numpy(golden_arrays["kd/teacher_logits64"])
    labels = torch.from_numpy(golden_arrays["kd/labels"])
    logits = model(golden_clip("nano/64").double())
    assert list(weights) == golden_arrays["backward/keys_sorted"].tolist()
    for name, settings in TRAINING_LOSSES.items():
        loss = weighted_loss(logits, teacher_logits, labels, **settings).loss
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        norms = np.array([gradient.norm().item() for gradient in gradients])
        expected = golden_facts["_backward"]["64"][name]
        assert loss.item() == pytest.approx(expected["loss"], abs=1e-9), name
        total = float(np.linalg.norm(norms))
        assert total == pytest.approx(expected["total_grad_norm"], rel=1e-9), name
        if f"backward/{name}/grad_norms64" in golden_arrays:  # recorded for two of the four
            recorded = golden_arrays[f"backward/{name}/grad_norms64"]
            np.testing.assert_allclose(norms, recorded, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [1, 2, 4, 10])
def test_distill_values(temperature, golden_arrays, golden_facts):
    logits = torch.from_numpy(golden_arrays["nano/64/logits64"])
    teacher_logits = torch.from_numpy(golden_arrays["kd/teacher_logits64"])
    expected = golden_facts["_kd"][f"T={temperature}"]

    forward = float(distill_loss(logits, teacher_logits, temperature=temperature))
    assert forward == pytest.approx(expected["forward_kl_mean_times_T2"], abs=1e-9)
    reverse = float(distill_loss(teacher_logits, logits, temperature=temperature))
    assert reverse / temperature**2 == pytest.approx(expected["reverse_kl_mean"], abs=1e-9)
    terms = distill_terms(logits, teacher_logits, temperature=temperature, kind="published")
    published = float(temperature**2 * terms.sum() / len(terms))
    assert published == pytest.approx(expected["published_code_term"], abs=1e-9)


def record_outputs(model, names):
    """Fill the returned dict with the outputs of named modules while the model runs."""
    outputs = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: outputs.update({name: output})
        )
    return outputs


def summary(output):
    """First and last eight values, mean and deviation: what the golden file keeps of a tensor."""
    values = output.flatten()
    return torch.cat([values[:8], values[-8:], values.mean()[None], values.std()[None]])


def assert_near(found, expected, tolerance):
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)
