"""A weights file of an untrained student, as training would write it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import resolved_yaml
from pipeline.networks.build import build_network
from pipeline.networks.weight_files import write_weights


def write_student(
    config: ExperimentConfig, path: Path, class_names: Sequence[str], *, seed: int
) -> str:
    torch.manual_seed(seed)
    network = build_network(
        config.student, num_classes=len(class_names), num_frames=config.student_num_frames
    )
    facts = {"run": f"student-{seed}", "root_digest": "ab", "config": resolved_yaml(config)}
    write_weights(str(path), network.state_dict(), facts, class_names=class_names)
    return str(path)
