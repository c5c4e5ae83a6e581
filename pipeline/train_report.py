"""What a finished training run leaves: weights, a result to compare, and its pages in MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dvflnet.cost import count_macs, count_parameters
from dvflnet.metrics import evaluate_logits
from pipeline import storage
from pipeline.checkpoints import WEIGHTS, TrainingState, read_checkpoint
from pipeline.logit_store.mirror import Mirror
from pipeline.networks import build_network
from pipeline.tracking import TrackedRun
from pipeline.train_loop import val_teacher_logits
from pipeline.train_plan import TrainPlan


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint with the metrics of its evaluation."""

    metrics: dict[str, Any]
    weights_file: bytes
    state: TrainingState


def publish_result(
    plan: TrainPlan,
    checkpoints: list[tuple[Any, dict[str, Any]]],
    mirror: Mirror | None,
    run: TrackedRun,
) -> dict[str, Any]:
    """Publish best and last weights, and log what there is to see; return the result.

    Args:
        plan: of the run.
        checkpoints: Ray Train checkpoints with their metrics, best and last among them.
        mirror: the store that the run learned from, if any.
        run: in MLflow.

    """
    best = _read(max(checkpoints, key=lambda pair: (pair[1]["val/top1"], -pair[1]["val/nll"])))
    last = _read(max(checkpoints, key=lambda pair: pair[1]["step"]))
    for name, evaluated in (("best", best), ("last", last)):
        uri = storage.join_uri(plan.folder, f"{name}.safetensors")
        storage.write_bytes(uri, evaluated.weights_file)
    summary = _summary(plan, best, last, mirror)
    run.log_summary(summary)
    return {"name": plan.name, "run_id": run.run_id, "link": run.link, "metrics": summary}


def _read(pair: tuple[Any, dict[str, Any]]) -> Evaluated:
    checkpoint, metrics = pair
    with checkpoint.as_directory() as folder:
        weights_file = storage.read_bytes(str(Path(folder) / WEIGHTS))
        return Evaluated(metrics, weights_file, read_checkpoint(Path(folder)))


def _summary(
    plan: TrainPlan, best: Evaluated, last: Evaluated, mirror: Mirror | None
) -> dict[str, float]:
    """Collect the numbers of the whole run, under their MLflow names."""
    summary = {"train/seconds": last.state.seconds, "best/epoch": best.metrics["epoch"]}
    for when, evaluated in (("best", best), ("last", last)):
        for name, value in evaluated.metrics.items():
            if name.startswith("val/"):
                summary[f"{when}/{name.replace('/', '_')}"] = value
    if mirror is not None:
        labels = torch.tensor(plan.labels(plan.val_rows))
        teacher = evaluate_logits(val_teacher_logits(plan, mirror), labels)
        summary |= {f"teacher/val_{name}": value for name, value in teacher.items()}
    return summary | _cost(plan)


def _cost(plan: TrainPlan) -> dict[str, float]:
    """Count the network's parameters and multiply-adds for one clip."""
    recipe = plan.recipe
    num_frames = recipe.num_frames // recipe.frame_stride
    network = build_network(
        recipe.model, num_classes=len(plan.manifest.class_names), num_frames=num_frames
    )
    macs = count_macs(network, num_frames=num_frames, side=recipe.side)
    return {"model/params_millions": count_parameters(network) / 1e6, "model/gmacs": macs / 1e9}
