"""Exported programs beside the network that they were made from."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.results.export.contract import Program


def clips_of(count: int) -> NDArray[np.uint8]:
    return np.random.RandomState(count).randint(0, 256, (count, 4, 32, 32, 3)).astype(np.uint8)


def check_logits(programs: Mapping[str, Program], classifier: nn.Module, count: int) -> None:
    """Compare all programs with the network, on noise."""
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(clips_of(count))).numpy()
    for name, program in programs.items():
        found = program(clips_of(count))
        assert found.shape == expected.shape, name
        if name.endswith("float32"):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)
        else:  # noise leaves the ranges of the calibration now and then
            assert np.abs(found - expected).mean() < 0.25 * np.abs(expected).max(), name
