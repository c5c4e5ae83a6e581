"""What a finished training run leaves: weights, a result to compare, and its pages in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dvflnet.cost import count_macs, count_parameters
from dvflnet.metrics import calibration_bins, confusion_matrix, evaluate_logits
from pipeline.logits.mirror import Mirror
from pipeline.logits.store import open_store
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
from pipeline.storage.files import join_uri, read_bytes, write_bytes
from pipeline.tracking.run import TrackedRun
from pipeline.training.checkpoint import WEIGHTS, TrainingState, read_checkpoint
from pipeline.training.loop import val_teacher_logits
from pipeline.training.plan import TrainPlan, plan_network
from pipeline.views.decoder import DecodeProcess

NUM_SHOWN = 12  # videos on the sheet of predictions
SHOWN_SIDE = 96  # pixels, at least


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
    best_pair = max(checkpoints, key=lambda pair: (pair[1]["val/top1"], -pair[1]["val/nll"]))
    last_pair = max(checkpoints, key=lambda pair: pair[1]["step"])
    best, last = _read(plan, best_pair), _read(plan, last_pair)
    for name, evaluated in (("best", best), ("last", last)):
        uri = join_uri(plan.folder, f"{name}.safetensors")
        write_bytes(uri, evaluated.weights_file)
    summary = _summary(plan, best, last, mirror)
    run.log_summary(summary)
    _log_pages(plan, best.state, mirror, run)
    if plan.recipe.role == "student":  # the teacher does not travel
        _log_model(plan, best.state, run)
    return {"name": plan.name, "run_id": run.run_id, "link": run.link, "metrics": summary}


def log_epoch(run: TrackedRun, report: Mapping[str, Any]) -> None:
    """Log what a worker reported of an epoch: the scores of val and the points of training."""
    # Scores first: what was logged first is what MLflow compares runs by, unless told otherwise.
    run.log_metrics(report["step"], val_scores(report) | {"train/epoch": report["epoch"]})
    for step, values in report["points"]:
        run.log_metrics(step, values)


def val_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """Return what was measured on val, under its MLflow names."""
    return {name: value for name, value in report.items() if name.startswith("val/")}


def store_tags(plan: TrainPlan) -> dict[str, str]:
    """Link a student to its store; the grey runs are those that did not learn from the teacher."""
    store = open_store(plan.store_uri)
    return {
        "mlflow.runColor": COLOURS["student"] if plan.recipe.loss.distill_weight else QUIET,
        "cache.key": store.spec.fingerprint,
        "cache.root_digest": plan.root_digest,
        "cache.run_id": str(store.seal.provenance.get("run_id", "")),
        "teacher.sha256": store.spec.teacher_digest,
    }


def _read(plan: TrainPlan, pair: tuple[Any, dict[str, Any]]) -> Evaluated:
    checkpoint, metrics = pair
    uri = plan.checkpoint_uri(checkpoint.path)
    weights_file = read_bytes(join_uri(uri, WEIGHTS))
    return Evaluated(metrics, weights_file, read_checkpoint(uri))


def _summary(
    plan: TrainPlan, best: Evaluated, last: Evaluated, mirror: Mirror | None
) -> dict[str, float]:
    """Collect the numbers of the whole run, under their MLflow names."""
    summary = {"train/seconds": last.state.seconds, "best/epoch": best.metrics["epoch"]}
    for when, evaluated in (("best", best), ("last", last)):
        for name, value in val_scores(evaluated.metrics).items():
            summary[name.replace("val", when, 1)] = value
    if mirror is not None:
        labels = torch.tensor(plan.labels(plan.val_rows))
        teacher = evaluate_logits(val_teacher_logits(plan, mirror), labels)
        summary |= {f"teacher/{name}": value for name, value in teacher.items()}
    return summary | _cost(plan)


def _cost(plan: TrainPlan) -> dict[str, float]:
    """Count the network's parameters and multiply-adds for one clip."""
    network = plan_network(plan)
    macs = count_macs(network, num_frames=network.num_frames, side=plan.recipe.side)
    return {"model/params_millions": count_parameters(network) / 1e6, "model/gmacs": macs / 1e9}


def _log_pages(
    plan: TrainPlan, state: TrainingState, mirror: Mirror | None, run: TrackedRun
) -> None:
    """Log what a person looks at: which classes are mixed up, how sure the network is, examples."""
    names, labels = plan.manifest.class_names, torch.tensor(plan.labels(plan.val_rows))
    logits_of: dict[str, Tensor] = {plan.recipe.role: state.val_logits}
    if mirror is not None:
        logits_of["teacher"] = val_teacher_logits(plan, mirror)
    confusion = confusion_matrix(state.val_logits, labels).numpy()
    bins = {
        role: Bins(*(sums.numpy() for sums in calibration_bins(logits, labels)))
        for role, logits in logits_of.items()
    }
    run.log_figure("val/confusion.png", confusion_figure(confusion, names))
    run.log_text("val/per_class.csv", per_class_table(confusion, names))
    run.log_figure("val/reliability.png", reliability_figure(bins))
    run.log_figure("val/predictions.png", predictions_figure(_shown_videos(plan, logits_of)))


def _shown_videos(plan: TrainPlan, logits_of: dict[str, Tensor]) -> list[ShownVideo]:
    """Pick videos of val evenly, and see them as the network did."""
    step = max(1, len(plan.val_rows) // NUM_SHOWN)
    places = range(0, len(plan.val_rows), step)[:NUM_SHOWN]
    decoder = DecodeProcess()
    try:
        return [_shown(plan, place, logits_of, decoder) for place in places]
    finally:
        decoder.close()


def _shown(
    plan: TrainPlan, place: int, logits_of: dict[str, Tensor], decoder: DecodeProcess
) -> ShownVideo:
    record = plan.manifest.records[plan.val_rows[place]]
    names = plan.manifest.class_names
    view, limits = plan.recipe.evaluation_view(record), plan.config.dataset.limits
    clip = decoder.clips(
        record, [view], limits, side=max(plan.recipe.side, SHOWN_SIDE), prove=False
    )
    predictions = {}
    for role, logits in logits_of.items():
        probability, label = logits[place].softmax(dim=0).max(dim=0)
        predictions[role] = Prediction(names[int(label)], float(probability))
    return ShownVideo(record.sample_id, clip[0].frames, names[record.label], predictions)


def _log_model(plan: TrainPlan, state: TrainingState, run: TrackedRun) -> None:
    network = plan_network(plan)
    network.load_state_dict(dict(state.weights))
    run.log_model(
        network.eval(),
        num_frames=network.num_frames,
        side=plan.recipe.side,
        metadata={"class_names": list(plan.manifest.class_names), "run": plan.name},
    )
