"""Runs as the stages log them: two caches, and of one a baseline student and a distilled one."""

import math
from collections.abc import Mapping

from pipeline.config.schema import DatasetConfig, ExperimentConfig, LossConfig, TrackingConfig
from pipeline.tracking.run import open_run

EXPERIMENT = "moving-shapes"
CACHE, BASELINE, DISTILLED = "cache-base-5e1f0a12", "vflnet-s0-3fa9c1", "dvflnet-w0.2-t10-s0-9b04d7"
KEY, OTHER_KEY = "5e1f0a", "c04d77"
OTHER_CACHE = "cache-base-c04d7731"  # of other views
NUM_EPOCHS, STEPS_PER_EPOCH = 12, 8


def log_example_runs(uri: str) -> Mapping[str, str]:
    """Log all of them to a tracking server or database; return the links of students by name."""
    _log_cache(uri, OTHER_CACHE, OTHER_KEY)
    tags = {"cache.key": KEY, "cache.run_id": _log_cache(uri, CACHE, KEY)}
    students = ((BASELINE, 0.0, 0.66), (DISTILLED, 0.2, 0.84))
    return {name: _log_student(uri, name, weight, top1, tags) for name, weight, top1 in students}


def _config(uri: str, distill_weight: float) -> ExperimentConfig:
    return ExperimentConfig(
        artefacts="/data/moving-shapes",
        dataset=DatasetConfig(
            name=EXPERIMENT, root="/data/videos", layout="folders", num_classes=8
        ),
        loss=LossConfig(distill_weight=distill_weight),
        tracking=TrackingConfig(uri=uri),
    )


def _log_cache(uri: str, name: str, key: str) -> str:
    with open_run(
        _config(uri, distill_weight=0.2),
        stage="cache_teacher",
        name=name,
        key=key,
        sections=("clip", "views", "teacher", "store"),
        tags={"cache.key": key},
    ) as run:
        for step in range(1, 11):
            run.log_metrics(10 * step, {"cache/clips_per_second": 41.0 + math.sin(step)})
        assert run.run_id
        return run.run_id


def _log_student(
    uri: str, name: str, distill_weight: float, top1: float, tags: Mapping[str, str]
) -> str:
    with open_run(
        _config(uri, distill_weight),
        stage="train_student",
        name=name,
        key=name,
        sections=("clip", "student", "loss", "optim", "train"),
        tags=tags,
    ) as run:
        for epoch in range(1, NUM_EPOCHS + 1):
            step = epoch * STEPS_PER_EPOCH
            run.log_metrics(step, _val_scores(top1 * (1 - math.exp(-epoch / 3))))
            run.log_metrics(step, {"train/loss": 0.4 + 1.7 * math.exp(-epoch * top1 / 4)})
        scores = _val_scores(top1).items()
        run.log_summary({name.replace("val", "best", 1): score for name, score in scores})
        return run.link


def _val_scores(top1: float) -> Mapping[str, float]:
    return {"val/top1": top1, "val/nll": 2.1 - 1.6 * top1, "val/agreement": top1 + 0.02}
