"""A small experiment that is ready for stage one: generated videos, manifest, random teacher.

The teacher's answers mean nothing; its cost is real.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.annotations import read_annotations
from pipeline.dataset.generated.videos import generate_dataset
from pipeline.dataset.manifest import build_manifest, located, write_manifest
from pipeline.networks.build import build_network
from pipeline.networks.weight_files import write_weights
from pipeline.views.decoder import DecodeProcess

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"


def build_experiment(folder: str, *settings: str) -> ExperimentConfig:
    """Write an experiment like the demo's below ``folder``; ``settings`` override the demo's."""
    config = load_config(
        DEMO,
        [
            f"artefacts={folder}/artefacts",
            f"dataset.root={folder}/videos",
            f"dataset.annotations={folder}/videos/splits",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            "teacher.weights=null",
            "teacher.min_top1=null",
            "train.labels_per_class=null",
            *settings,
        ],
    )
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the section
        generate_dataset(config.dataset)
    class_names = _index(config)
    torch.manual_seed(0)
    teacher = build_network(
        config.teacher, num_classes=len(class_names), num_frames=config.clip.num_frames
    )
    write_weights(config.own_teacher_uri, teacher.state_dict(), {}, class_names=class_names)
    return config


def _index(config: ExperimentConfig) -> tuple[str, ...]:
    """Write the manifest, as the index stage does but without Ray; return the class names."""
    annotated, decoder = read_annotations(config.dataset), DecodeProcess()
    relative = {record.sample_id: record.uri for record in annotated.records}
    probed = [
        decoder.probe(record, config.dataset.limits)
        for record in located(annotated.records, config.dataset.root)
    ]
    decoder.close()
    manifest = build_manifest(
        config.dataset.name,
        annotated.class_names,
        [replace(record, uri=relative[record.sample_id]) for record in probed],
    )
    write_manifest(manifest, config.manifest_uri, root=config.dataset.root)
    return manifest.class_names
