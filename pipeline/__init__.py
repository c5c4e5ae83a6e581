"""The distillation pipeline: stages on Ray over plain modules.

The names in ``__all__`` are public: they stay, or change with a line in ``CHANGELOG.md``. All
others may change without one. A name is imported when it is first used, so ``import pipeline``
loads neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "ExperimentConfig": "pipeline.config.experiment",
    "LogitStore": "pipeline.logits.store",
    "Manifest": "pipeline.dataset.manifest",
    "PipelineError": "pipeline.errors",
    "Predictor": "pipeline.results.prediction",
    "TrainedNetwork": "pipeline.networks.trained",
    "Windows": "pipeline.results.prediction",
    "load_config": "pipeline.config.load",
    "load_student": "pipeline.results.prediction",
    "load_trained": "pipeline.networks.trained",
    "open_store": "pipeline.logits.generations",
    "plan_cache": "pipeline.stages.cache",
    "plan_frames": "pipeline.stages.prepare",
    "plan_index": "pipeline.stages.index",
    "plan_student": "pipeline.training.plan",
    "plan_sweep": "pipeline.training.sweep",
    "plan_teacher": "pipeline.training.plan",
    "read_manifest": "pipeline.dataset.manifest",
    "run_cache_teacher": "pipeline.stages.cache",
    "run_index_videos": "pipeline.stages.index",
    "run_prepare_frames": "pipeline.stages.prepare",
    "run_sweep": "pipeline.stages.sweep",
    "run_training": "pipeline.stages.train",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
