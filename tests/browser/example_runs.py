"""Runs as the stages log them: two caches, and of one a baseline student and a distilled one."""

import math
from collections.abc import Mapping

import numpy as np

from dvflnet import build_model
from pipeline.config.schema import DatasetConfig, ExperimentConfig, LossConfig, TrackingConfig
from pipeline.results.figures import (
    COLOURS,
    QUIET,
    Bins,
    Prediction,
    ShownVideo,
    confusion_figure,
    per_class_table,
    predictions_figure,
    reliability_figure,
)
from pipeline.tracking.run import TrackedRun
from pipeline.tracking.server import open_run

EXPERIMENT = "moving-shapes"
CACHE, BASELINE, DISTILLED = "cache-base-5e1f0a12", "vflnet-s0-3fa9c1", "dvflnet-w0.2-t10-s0-9b04d7"
KEY, OTHER_KEY = "5e1f0a", "c04d77"
OTHER_CACHE = "cache-base-c04d7731"  # of other views
STORE_DIGEST = "3f9c2b7a51d84e06" * 4
CLASS_NAMES = [
    f"{shape} {move}" for shape in ("disc", "box") for move in ("left", "right", "up", "down")
]
RUN_COLOUR = "mlflow.runColor"
NUM_EPOCHS, STEPS_PER_EPOCH = 12, 8


def log_example_runs(uri: str) -> None:
    """Log all of them to a tracking server or database."""
    _log_cache(_config(uri, distill_weight=0.2), OTHER_CACHE, OTHER_KEY)
    cache_run_id = _log_cache(_config(uri, distill_weight=0.2), CACHE, KEY)
    tags = {"cache.key": KEY, "cache.run_id": cache_run_id, "cache.root_digest": STORE_DIGEST}
    for name, weight, top1, colour in (
        (BASELINE, 0.0, 0.66, QUIET),
        (DISTILLED, 0.2, 0.84, COLOURS["student"]),
    ):
        config = _config(uri, distill_weight=weight)
        _log_student(config, name, top1, tags | {RUN_COLOUR: colour})


def _config(uri: str, distill_weight: float) -> ExperimentConfig:
    return ExperimentConfig(
        artefacts="/data/moving-shapes",
        dataset=DatasetConfig(
            name=EXPERIMENT, root="/data/videos", layout="folders", num_classes=8
        ),
        loss=LossConfig(distill_weight=distill_weight),
        tracking=TrackingConfig(uri=uri),
    )


def _log_cache(config: ExperimentConfig, name: str, key: str) -> str:
    tags = {"cache.key": key, "teacher.sha256": "77ab" * 16, RUN_COLOUR: COLOURS["teacher"]}
    sections = ("clip", "views", "teacher", "store")
    with open_run(
        config, stage="cache_teacher", name=name, key=key, sections=sections, tags=tags
    ) as run:
        for step in range(1, 11):
            run.log_metrics(10 * step, {"cache/clips_per_second": 41.0 + math.sin(step)})
        run.log_summary(
            {"cache/num_clips": 800, "cache/num_failed_videos": 2, "teacher/top1": 0.93}
        )
        digest = STORE_DIGEST if key == KEY else STORE_DIGEST[::-1]
        run.log_dataset("logit-store", digest=digest, uri=config.store_uri, context="cache")
        run.log_dataset(EXPERIMENT, digest="9a" * 32, uri="/data/videos", context="videos")
        assert run.run_id
        return run.run_id


def _log_student(config: ExperimentConfig, name: str, top1: float, tags: Mapping[str, str]) -> None:
    sections = ("clip", "student", "loss", "optim", "train")
    with open_run(
        config, stage="train_student", name=name, key=name, sections=sections, tags=tags
    ) as run:
        run.log_dataset(
            "logit-store", digest=STORE_DIGEST, uri=config.store_uri, context="training"
        )
        for epoch in range(1, NUM_EPOCHS + 1):
            _log_epoch(run, epoch, top1, config.loss.distill_weight)
        scores = _val_scores(top1).items()
        run.log_summary({name.replace("val", "best", 1): score for name, score in scores})
        run.log_summary({name.replace("val", "last", 1): score - 0.01 for name, score in scores})
        run.log_summary({"teacher/top1": 0.93, "model/gmacs": 27.14})
        _log_artifacts(run, top1)
        if config.loss.distill_weight:
            network = build_model("nano", 8, 8, embed_dim=8, depths=(1, 1, 1, 1)).eval()
            run.log_model(network, num_frames=8, side=32, metadata={"class_names": CLASS_NAMES})


def _log_epoch(run: TrackedRun, epoch: int, top1: float, distill_weight: float) -> None:
    step = epoch * STEPS_PER_EPOCH
    label_loss = 0.4 + 1.7 * math.exp(-epoch * top1 / 4)
    distill_loss = 2.0 * math.exp(-epoch * (distill_weight + 0.1))
    losses = {
        "train/label_loss": label_loss,
        "train/distill_loss": distill_loss,
        "train/loss": distill_weight * distill_loss + (1 - distill_weight) * label_loss,
        "train/lr": 0.01 * math.cos(epoch / NUM_EPOCHS * 1.4),
    }
    run.log_metrics(step, _val_scores(top1 * (1 - math.exp(-epoch / 3))))
    run.log_metrics(step, losses)


def _val_scores(top1: float) -> Mapping[str, float]:
    return {
        "val/top1": top1,
        "val/top5": min(1.0, top1 + 0.3),
        "val/nll": 2.1 - 1.6 * top1,
        "val/ece": 0.2 - 0.1 * top1,
        "val/agreement": top1 + 0.02,
    }


def _log_artifacts(run: TrackedRun, top1: float) -> None:
    num_classes, generator = len(CLASS_NAMES), np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), 20)
    right = generator.random(len(labels)) < top1
    predicted = np.where(right, labels, generator.integers(num_classes, size=len(labels)))
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    run.log_figure("val/confusion.png", confusion_figure(confusion, CLASS_NAMES))
    run.log_text("val/per_class.csv", per_class_table(confusion, CLASS_NAMES))
    rows = generator.integers(5, 40, 15).astype(float)
    confidence = rows * (np.arange(15) + 0.5) / 15
    bins = {"student": Bins(rows, confidence, 0.9 * confidence)}
    run.log_figure("val/reliability.png", reliability_figure(bins))
    run.log_figure("val/predictions.png", predictions_figure([_shown(i) for i in range(12)]))


def _shown(number: int) -> ShownVideo:
    frames = np.full((8, 96, 96, 3), 40, np.uint8)
    for time, frame in enumerate(frames):
        frame[30:60, 8 * time : 8 * time + 30] = (230, 180, 60 + 10 * number)
    name = CLASS_NAMES[number % 8]
    seen = name if number % 5 else CLASS_NAMES[0]
    predictions = {"student": Prediction(seen, 0.81), "teacher": Prediction(name, 0.97)}
    return ShownVideo(f"v{number}", frames, name, predictions)
