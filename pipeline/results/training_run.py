"""The results of a training run: weights, scores to compare, and its pages in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from dvflnet.cost import count_macs, count_parameters
from dvflnet.deployed import ClipClassifier
from dvflnet.metrics import calibration_bins, confusion_matrix, evaluate_logits
from pipeline.logits.mirror import Mirror
from pipeline.results.figures import (
    COLOURS,
    QUIET,
    ShownVideo,
    confusion_figure,
    per_class_table,
    predictions_figure,
    reliability_figure,
)
from pipeline.storage.files import read_bytes, write_bytes
from pipeline.tracking.run import TrackedRun
from pipeline.training.checkpoint import TrainingState, read_checkpoint
from pipeline.training.loop import SCORE, val_teacher_logits
from pipeline.training.train_plan import TrainPlan
from pipeline.views.decoder import DecodeProcess

MODEL_SCORES = ("top1", "nll", "ece")  # shown beside a model
NUM_SHOWN = 12  # videos on the sheet of predictions
SHOWN_SIDE = 96  # pixels, at least


def publish_result(
    plan: TrainPlan,
    checkpoints: list[tuple[Any, dict[str, Any]]],
    mirror: Mirror | None,
    run: TrackedRun,
) -> dict[str, Any]:
    """Publish best and last weights, log scores and pages, and return the result.

    ``checkpoints`` are Ray Train's with their metrics, best and last among them; ``mirror`` is that
    of the store that the run learned from, if any.
    """
    chosen = {
        "best": max(checkpoints, key=lambda pair: pair[1][SCORE]),
        "last": max(checkpoints, key=lambda pair: pair[1]["step"]),
    }
    states: dict[str, TrainingState] = {}
    summary: dict[str, float] = {}
    for when, (checkpoint, metrics) in chosen.items():
        files = plan.files.checkpoint(checkpoint.path)
        states[when] = read_checkpoint(files.folder)
        write_bytes(getattr(plan.files, when), read_bytes(files.weights))
        for name, value in val_scores(metrics).items():
            summary[name.replace("val", when, 1)] = value
    summary |= {"train/seconds": states["last"].seconds}
    summary |= _costs_and_teacher(plan, mirror)
    run.log_summary(summary)
    selection = plan.recipe.train.selection
    run.describe(_note(plan, summary))
    _log_pages(plan, states[selection], mirror, run)
    if plan.recipe.role == "student":
        run.share_students_view()
        if plan.config.tracking.log_model:  # no teacher is deployed
            _log_model(plan, states[selection], run, val_scores(chosen[selection][1]))
    return {
        "name": plan.name,
        "run_id": run.run_id,
        "link": run.link,
        "selection": selection,
        "metrics": summary,
    }


def _note(plan: TrainPlan, summary: Mapping[str, float]) -> str:
    """Say in Markdown what was trained from what, how good it is, and where its weights lie."""
    selection, loss = plan.recipe.train.selection, plan.recipe.loss
    scores = {name: summary[f"{selection}/{name}"] for name in MODEL_SCORES}
    num_videos = len(plan.learnt_rows)
    source = f"{num_videos} videos, {num_videos - plan.num_unlabelled} of them with a label"
    if plan.store is not None and loss.distill_weight:
        source += f", and the cache (weight {loss.distill_weight:g}), whose teacher has top-1 "
        source += f"{summary['teacher/top1']:.1%}: `{plan.store.uri}`"
    return (
        f"**{plan.name}**: {plan.recipe.model.title}, "
        f"{summary['model/params_millions']:.3g} M parameters, {summary['model/gmacs']:.3g} GMAC a "
        f"clip. Learnt from {source}.\n\nTop-1 {scores['top1']:.1%}, NLL {scores['nll']:.3f}, "
        f"calibration error {scores['ece']:.1%} on {len(plan.val_rows)} videos of val, by the "
        f"{selection} epoch. An evaluation adds intervals.\n\nWeights: `{plan.selected}`"
    )


def log_epoch(run: TrackedRun, report: Mapping[str, Any]) -> None:
    """Log an evaluated epoch: the scores of val and the points of training."""
    # Scores first: MLflow compares runs by the metric that was logged first.
    run.log_metrics(report["step"], val_scores(report) | {"train/epoch": report["epoch"]})
    for step, values in report["points"]:
        run.log_metrics(step, values)


def val_scores(report: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in report.items() if name.startswith("val/")}


def store_tags(plan: TrainPlan) -> dict[str, str]:
    """Return the tags that link a student to its store. Runs on labels alone are drawn in grey."""
    store = plan.store
    if store is None:
        return {}
    return {
        "mlflow.runColor": COLOURS["student"] if plan.recipe.loss.distill_weight else QUIET,
        "cache.key": store.fingerprint,
        "cache.root_digest": store.root_digest,
        "cache.run_id": store.run_id,
        "teacher.sha256": store.teacher_digest,
    }


def log_store(run: TrackedRun, plan: TrainPlan) -> None:
    """Log the store that a run learns from as its data set, if there is one."""
    if (store := plan.store) is not None:
        run.log_dataset("logit-store", digest=store.root_digest, uri=store.uri, context="training")


def _costs_and_teacher(plan: TrainPlan, mirror: Mirror | None) -> dict[str, float]:
    """Return the network's costs of one clip, and the teacher's scores from the store."""
    network, recipe = plan.build_network().eval(), plan.recipe
    macs = count_macs(network, num_frames=recipe.clip_num_frames, side=recipe.side)
    found = {"model/params_millions": count_parameters(network) / 1e6, "model/gmacs": macs / 1e9}
    if mirror is not None:
        labels = torch.tensor(plan.labels(plan.val_rows))
        teacher = evaluate_logits(val_teacher_logits(plan, mirror), labels)
        found |= {f"teacher/{name}": value for name, value in teacher.items()}
    return found


def _log_pages(
    plan: TrainPlan, state: TrainingState, mirror: Mirror | None, run: TrackedRun
) -> None:
    """Log confusion of classes, calibration and example videos."""
    names, labels = plan.manifest.class_names, torch.tensor(plan.labels(plan.val_rows))
    logits_of: dict[str, Tensor] = {plan.recipe.role: state.val_logits}
    if mirror is not None:
        logits_of["teacher"] = val_teacher_logits(plan, mirror)
    confusion = confusion_matrix(state.val_logits, labels).numpy()
    bins = {role: calibration_bins(logits, labels) for role, logits in logits_of.items()}
    run.log_figure("val/confusion.png", confusion_figure(confusion, names))
    run.log_text("val/per_class.csv", per_class_table(confusion, names))
    run.log_figure("val/reliability.png", reliability_figure(bins))
    run.log_figure("val/predictions.png", predictions_figure(_shown_videos(plan, logits_of)))


def _shown_videos(plan: TrainPlan, logits_of: dict[str, Tensor]) -> list[ShownVideo]:
    """Pick videos of val, with their evaluation views: mistakes first, by confidence."""
    names, limits = plan.manifest.class_names, plan.config.dataset.limits
    side = max(plan.recipe.side, SHOWN_SIDE)
    confidence, predicted = logits_of[plan.recipe.role].softmax(dim=1).max(dim=1)
    wrong = predicted != torch.tensor(plan.labels(plan.val_rows))
    order = (wrong + confidence * torch.where(wrong, 1, -1)).argsort(descending=True, stable=True)
    shown = []
    with closing(DecodeProcess()) as decoder:
        for index in order[:NUM_SHOWN].tolist():
            record = plan.manifest.records[plan.val_rows[index]]
            view = plan.recipe.evaluation_view(record)
            (clip,) = decoder.clips(record, [view], limits, side=side, prove=False)
            predictions = {}
            for role, logits in logits_of.items():
                probability, label = logits[index].softmax(dim=0).max(dim=0)
                predictions[role] = (names[int(label)], float(probability))
            shown.append(ShownVideo(clip.frames, names[record.label_number], predictions))
    return shown


def _log_model(
    plan: TrainPlan, state: TrainingState, run: TrackedRun, scores: Mapping[str, float]
) -> None:
    network = plan.build_network()
    network.load_state_dict(dict(state.weights))
    recipe = plan.recipe
    run.log_model(
        ClipClassifier(network, motion_only=recipe.motion_only).eval(),
        clip_shape=recipe.clip_shape,
        metadata={"class_names": list(plan.manifest.class_names), "run": plan.name},
        metrics={name: scores[f"val/{name}"] for name in MODEL_SCORES},
    )
