"""The example that needs packages of its own: an image network with a head over time."""

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.networks.foreign import build_foreign, examine, own_state
from pipeline.training.step import set_training_mode

TEACHER = "examples.efficientnet_teacher:build"
pytestmark = pytest.mark.export


def test_the_head_alone_is_trained_on_features_of_real_weights() -> None:
    network = build_foreign(TEACHER, num_classes=5, num_frames=4)
    examine(network.eval(), TEACHER, 5, (4, 64))
    set_training_mode(network)
    assert network.classifier.training
    assert not any(module.training for module in network.front.modules())
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert 0.5e6 < trained < 0.7e6
    before = network.front[1].running_mean.clone()
    network(torch.randn(2, 4, 3, 64, 64)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in network.parameters())
    assert torch.equal(network.front[1].running_mean, before)


def test_its_head_is_fresh_and_so_it_must_be_trained() -> None:
    with pytest.raises(ConfigError, match="at least a part of it is random"):
        own_state(TEACHER, num_classes=5, num_frames=4)
