"""From artefacts and MLflow to the facts of the page.

Without indexed videos there is nothing to report on. Every other part is gathered alone. One that
cannot be, because a stage has not run or an artefact is damaged, becomes ``Missing`` with the
reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dvflnet.cost import count_macs, count_parameters
from dvflnet.metrics import confusion_matrix, evaluate_logits
from pipeline.config.schema import ExperimentConfig, ModelConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import PipelineError, Status, StoreIncomplete, VideoDecodeError
from pipeline.frames.source import read_source, read_videos
from pipeline.logits.examine import examine
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.mirror import open_mirror
from pipeline.logits.store import LogitStore
from pipeline.networks.build import build_network
from pipeline.networks.weight_files import read_weights
from pipeline.results.page.charts import film_strip
from pipeline.results.page.facts import (
    CURVES,
    Cost,
    Dataset,
    Disagreement,
    Facts,
    Missing,
    Model,
    Scores,
    Store,
    Strip,
)
from pipeline.storage.files import exists, join_uri, read_json
from pipeline.storage.locks import MIRRORS
from pipeline.tracking.server import read_curves
from pipeline.training.checkpoint import VAL_LOGITS
from pipeline.training.loop import val_teacher_logits
from pipeline.training.plan import WEIGHTS, TrainPlan, plan_student, plan_teacher, vary_student
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import EVALUATION_VIEW, build_view

T = TypeVar("T")
SPLITS = ("train", "val", "test")
MAX_CLASS_STRIPS = 12
MAX_DISAGREEMENTS = 9


def gather_facts(config: ExperimentConfig) -> Facts:
    """Read everything that is there.

    Raises:
        StoreIncomplete: if not even the videos are indexed; the config may name another place.
        DatasetError: if their manifest is damaged.

    """
    read_videos(config)  # or there is nothing to report on
    manifest = _try(lambda: read_source(config))
    student = _try(lambda: plan_student(config))
    baseline = _part(student, lambda plan: vary_student(plan, config.baseline))
    teacher = _try(lambda: plan_teacher(config))
    with closing(DecodeProcess()) as decoder:
        return Facts(
            config=config,
            dataset=_part(manifest, lambda found: _dataset(config, found, decoder)),
            store=_part(manifest, lambda found: _store(config, found)),
            models=(
                _teacher(config, teacher, student),
                _student(config, "baseline", "VFL-Net, from labels alone", baseline),
                _student(config, "student", "DVFL-Net, from labels and the cache", student),
            ),
            num_val=0 if isinstance(student, Missing) else len(student.val_rows),
            disagreements=_part(student, lambda plan: _disagreements(plan, decoder)),
        )


def _try(make: Callable[[], T]) -> T | Missing:
    """Make a part, or say why it cannot be made."""
    try:
        return make()
    except PipelineError as error:
        return Missing(str(error))


def _part(found: T | Missing, make: Callable[[T], Any]) -> Any:
    return found if isinstance(found, Missing) else _try(lambda: make(found))


def _dataset(config: ExperimentConfig, manifest: Manifest, decoder: DecodeProcess) -> Dataset:
    records = manifest.records
    splits = [name for name in SPLITS if manifest.rows_of(name, good=False)]
    good = [record for record in records if record.good]
    reasons = [Status(record.status).name for record in records if not record.good]
    return Dataset(
        name=manifest.dataset,
        digest=manifest.digest,
        source=config.frames.source,
        class_names=manifest.class_names,
        num_videos={
            split: (len(manifest.rows_of(split)), len(manifest.rows_of(split, good=False)))
            for split in splits
        },
        class_counts={
            split: np.bincount(
                [record.label for record in good if record.split == split],
                minlength=len(manifest.class_names),
            ).tolist()
            for split in splits
        },
        seconds=sum(r.num_frames / r.frame_rate for r in good if r.frame_rate),
        num_bytes=sum(record.num_bytes for record in good),
        bad=tuple(f"{reasons.count(name)} {name}" for name in sorted(set(reasons))),
        strips=tuple(_class_strips(config, manifest, decoder)),
    )


def _class_strips(
    config: ExperimentConfig, manifest: Manifest, decoder: DecodeProcess
) -> list[Strip]:
    """Show a video of each class, or of some where there are many, as evaluation sees it."""
    num_classes = len(manifest.class_names)
    labels = np.linspace(0, num_classes - 1, min(num_classes, MAX_CLASS_STRIPS)).round()
    firsts = {
        record.label: row
        for row, record in reversed(list(enumerate(manifest.records)))
        if record.good and record.split == "train"
    }
    shown = [int(label) for label in labels if int(label) in firsts]
    return [_strip(config, manifest, firsts[n], decoder, manifest.class_names[n]) for n in shown]


def _strip(
    config: ExperimentConfig, manifest: Manifest, row: int, decoder: DecodeProcess, caption: str
) -> Strip:
    record, limits = manifest.records[row], config.dataset.limits
    view = build_view(config.views, record, EVALUATION_VIEW, num_frames=config.clip.num_frames)
    try:
        return Strip(film_strip(decoder, record, view, limits), caption)
    except VideoDecodeError as error:
        return Strip("", f"{caption}: {error.reason}")


def _store(config: ExperimentConfig, manifest: Manifest) -> Store:
    store = open_experiment_store(config, manifest)
    diagnosis = examine(store, manifest.records, config.views)
    num_good = sum(shard.num_good for shard in diagnosis.shards)
    known = [
        (name, top1)
        for name, top1 in zip(manifest.class_names, diagnosis.class_top1, strict=True)
        if not math.isnan(top1)
    ]
    return Store(
        fingerprint=store.spec.fingerprint,
        root_digest=store.root_digest,
        format=store.spec.format,
        num_files=len(store.seal.files),
        num_bytes=sum(entry.num_bytes for entry in store.seal.files),
        num_good=num_good,
        num_wanted=_num_wanted(store, manifest),
        num_views=config.views.num_views,
        sealed_at=str(store.seal.provenance.get("sealed_at", "")),
        run_id=str(store.seal.provenance.get("run_id", "")),
        teacher=store.spec.identity["teacher"],
        train_top1=sum(shard.num_hits for shard in diagnosis.shards) / max(num_good, 1),
        findings=diagnosis.findings,
        hardest_classes=tuple(sorted(known, key=lambda pair: pair[1])[:3]),
    )


def _num_wanted(store: LogitStore, manifest: Manifest) -> int:
    num_train = sum(record.split == "train" for record in manifest.records)
    num_train_views = len(store.spec.view_indices) - 1  # all but the evaluation view
    return num_train * num_train_views + len(manifest.records) - num_train


def _cost(config: ExperimentConfig, model: ModelConfig, *, num_frames: int, side: int) -> Cost:
    network = build_network(model, num_classes=config.dataset.num_classes, num_frames=num_frames)
    return Cost(count_parameters(network), count_macs(network, num_frames=num_frames, side=side))


def _teacher(
    config: ExperimentConfig, plan: TrainPlan | Missing, student: TrainPlan | Missing
) -> Model:
    """Describe the teacher; its scores are those of the logits that were distilled."""
    clip, own = config.clip, _part(plan, _result)
    here = exists(config.teacher_weights_uri)
    digest = read_weights(config.teacher_weights_uri).metadata.get("digest", "") if here else ""
    depths = f", depths {list(config.teacher.depths)}" if config.teacher.depths else ""
    width = f", width {config.teacher.embed_dim}" if config.teacher.embed_dim else ""
    return Model(
        role="teacher",
        title=f"Teacher, Video-FocalNet {config.teacher.variant}{width}{depths}",
        cost=_cost(config, config.teacher, num_frames=clip.num_frames, side=clip.side),
        scores=_part(student, lambda found: _scores(found, _teacher_logits(found))),
        run="not trained here" if isinstance(own, Missing) else own["name"],
        run_id="" if isinstance(own, Missing) else str(own["run_id"]),
        weights_digest=digest,
        seconds=None if isinstance(own, Missing) else own["metrics"]["train/seconds"],
        curves=_part(own, lambda result: _curves(config, result)),
    )


def _student(config: ExperimentConfig, role: str, title: str, plan: TrainPlan | Missing) -> Model:
    cost = _cost(
        config, config.student, num_frames=config.student_num_frames, side=config.student_side
    )
    result = _part(plan, _result)
    if isinstance(plan, Missing) or isinstance(result, Missing):
        reason = Missing(result.reason)
        return Model(role, title, cost, reason, "not trained yet", "", "", None, reason)
    last = read_weights(join_uri(plan.folder, WEIGHTS))
    return Model(
        role=role,
        title=title,
        cost=cost,
        scores=_try(lambda: _scores(plan, _last_logits(plan))),
        run=result["name"],
        run_id=str(result["run_id"]),
        weights_digest=last.metadata.get("digest", ""),
        seconds=result["metrics"]["train/seconds"],
        curves=_try(lambda: _curves(config, result)),
    )


def _result(plan: TrainPlan) -> dict[str, Any]:
    uri = join_uri(plan.folder, "result.json")
    if not exists(uri):
        job = f"python jobs/train_{plan.recipe.role}.py"
        raise StoreIncomplete(f"{plan.name} is not trained yet ({job})")
    return dict(read_json(uri))


def _curves(
    config: ExperimentConfig, result: Mapping[str, Any]
) -> dict[str, list[tuple[int, float]]]:
    return read_curves(config.tracking_uri, str(result["run_id"]), CURVES)


def _last_logits(plan: TrainPlan) -> Tensor:
    """Read what the last weights say of val, float32 ``(N, K)``."""
    epoch = f"epoch_{plan.recipe.train.epochs:04d}"
    uri = join_uri(plan.folder, epoch, VAL_LOGITS)
    if not exists(uri):
        raise StoreIncomplete(f"there is no {uri}, the last checkpoint of the run")
    return read_weights(uri).state["val_logits"]


def _teacher_logits(plan: TrainPlan) -> Tensor:
    return val_teacher_logits(plan, open_mirror(plan.store_uri, MIRRORS))


def _scores(plan: TrainPlan, logits: Tensor) -> Scores:
    labels = torch.tensor(plan.labels(plan.val_rows))
    return Scores(
        evaluate_logits(logits, labels, _teacher_logits(plan)),
        confusion_matrix(logits, labels).numpy(),
        (logits.argmax(dim=1) == labels).numpy(),
    )


def _disagreements(plan: TrainPlan, decoder: DecodeProcess) -> tuple[Disagreement, ...]:
    """Find the videos whose arg-max differs, those with the largest KL first."""
    _result(plan)
    manifest, names = plan.manifest, plan.manifest.class_names
    student, teacher = (
        logits.double().log_softmax(dim=1) for logits in (_last_logits(plan), _teacher_logits(plan))
    )
    kl = (teacher.exp() * (teacher - student)).sum(dim=1)
    kl[student.argmax(dim=1) == teacher.argmax(dim=1)] = -1.0
    places = [int(n) for n in kl.argsort(descending=True)[:MAX_DISAGREEMENTS] if kl[n] >= 0]

    def said(log_probabilities: Tensor) -> tuple[str, float]:
        value, label = log_probabilities.max(dim=0)
        return names[int(label)], float(value.exp())

    found = []
    for place in places:
        row = plan.val_rows[place]
        record = manifest.records[row]
        strip = _strip(plan.config, manifest, row, decoder, record.sample_id)
        verdicts = said(teacher[place]), said(student[place])
        found.append(Disagreement(strip, names[record.label], *verdicts, float(kl[place])))
    return tuple(found)
