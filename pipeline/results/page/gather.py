"""The reader of artefacts and MLflow that gathers the facts of the page.

Without indexed videos there is nothing to report on. Every other part is gathered on its own.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from contextlib import closing

import numpy as np
from torch import Tensor

from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.seen import seen_by_teacher
from pipeline.errors import Status, StoreIncomplete, VideoDecodeError
from pipeline.frames.pictures import encode_jpeg
from pipeline.frames.source import read_source, read_videos
from pipeline.logits.examine import examine
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.store import LogitStore
from pipeline.networks.weight_files import read_weights
from pipeline.results.costs import count_costs, own_subjects
from pipeline.results.evaluation import Evaluation
from pipeline.results.page.facts import (
    CURVES,
    Dataset,
    Disagreement,
    Facts,
    Model,
    Part,
    Run,
    Store,
    Strip,
)
from pipeline.storage.files import exists, read_json
from pipeline.tracking.server import read_curves
from pipeline.training.checkpoint import checkpoint_name
from pipeline.training.loop import val_teacher_logits
from pipeline.training.plan import (
    TrainPlan,
    open_plan_mirror,
    plan_student,
    plan_teacher,
    vary_student,
)
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import EVALUATION_VIEW, Protocol, build_view

SPLITS = ("train", "val", "test")
MAX_CLASS_STRIPS = 12
MAX_DISAGREEMENTS = 9
STRIP_FRAMES, STRIP_SIDE, STRIP_QUALITY = 5, 96, 82


def gather_facts(config: ExperimentConfig) -> Facts:
    """Read everything that is there.

    Raises:
        StoreIncomplete: if not even the videos are indexed; the config may name another place.
        DatasetError: if their manifest is damaged.
    """
    read_videos(config)  # raises if there is nothing to report on
    manifest = Part.of(lambda: read_source(config))
    student = Part.of(lambda: plan_student(config))
    baseline = Part.of(lambda: vary_student(student.get(), config.baseline))
    plans = {
        "teacher": Part.of(lambda: plan_teacher(config)),
        "baseline": baseline,
        "student": student,
    }
    # The teacher's scores are those of the logits that were distilled.
    logits = {
        "teacher": Part.of(lambda: _teacher_logits(student.get())),
        "baseline": Part.of(lambda: _selected_logits(baseline.get())),
        "student": Part.of(lambda: _selected_logits(student.get())),
    }

    def disagreements() -> tuple[Disagreement, ...]:
        both = logits["teacher"].get(), logits["student"].get()
        return _disagreements(student.get(), *both, decoder)

    with closing(DecodeProcess()) as decoder:
        return Facts(
            config=config,
            dataset=Part.of(lambda: _dataset(config, manifest.get(), decoder)),
            store=Part.of(lambda: _store(config, manifest.get())),
            models=tuple(_model(config, role, plan, logits[role]) for role, plan in plans.items()),
            evaluation=_evaluation(student.value, logits),
            disagreements=Part.of(disagreements),
        )


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
    """Lay a few frames of a video side by side, time going right."""
    record, limits = manifest.records[row], config.dataset.limits
    view = build_view(config.views, record, EVALUATION_VIEW, num_frames=config.clip.num_frames)
    try:
        (clip,) = decoder.clips(record, [view], limits, side=STRIP_SIDE, prove=False)
    except VideoDecodeError as error:
        return Strip("", f"{caption}: {error.reason}")
    shown = np.linspace(0, len(clip.frames) - 1, STRIP_FRAMES).round().astype(int)
    picture = np.concatenate(list(clip.frames[shown]), axis=1)  # (H, STRIP_FRAMES * W, C)
    jpeg = base64.b64encode(encode_jpeg(picture, STRIP_QUALITY)).decode()
    return Strip(f"data:image/jpeg;base64,{jpeg}", caption)


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
        top1=sum(shard.num_hits for shard in diagnosis.shards) / max(num_good, 1),
        findings=diagnosis.findings,
        hardest_classes=tuple(sorted(known, key=lambda pair: pair[1])[:3]),
    )


def _num_wanted(store: LogitStore, manifest: Manifest) -> int:
    num_train = sum(record.split == "train" for record in manifest.records)
    num_train_views = len(store.spec.view_indices) - 1  # all but the evaluation view
    return num_train * num_train_views + len(manifest.records) - num_train


def _model(
    config: ExperimentConfig, role: str, plan: Part[TrainPlan], logits: Part[Tensor]
) -> Model:
    teacher, student = own_subjects(config)
    num_parameters, num_macs = count_costs(teacher if role == "teacher" else student)

    def weights_digest() -> str:
        if role == "teacher":  # it may have been trained elsewhere
            return read_weights(config.teacher_weights_uri).metadata.get("digest", "")
        return read_weights(plan.get().selected).metadata.get("digest", "")

    run = Part.of(lambda: _run(plan.get()))
    return Model(
        role=role,
        num_parameters=num_parameters,
        num_macs=num_macs,
        run=run,
        weights_digest=Part.of(weights_digest).value or "",
        curves=Part.of(lambda: read_curves(config.tracking_uri, run.get().run_id, CURVES)),
        unscored=logits.reason,
    )


def _run(plan: TrainPlan) -> Run:
    if not exists(plan.files.result):
        job = f"python jobs/train_{plan.recipe.role}.py"
        raise StoreIncomplete(f"{plan.name} is not trained yet ({job})")
    result = dict(read_json(plan.files.result))
    return Run(result["name"], str(result["run_id"]), result["metrics"]["train/seconds"])


def _teacher_logits(plan: TrainPlan) -> Tensor:
    mirror = open_plan_mirror(plan)
    assert mirror is not None, "a student's plan has a store"
    return val_teacher_logits(plan, mirror)


def _selected_logits(plan: TrainPlan) -> Tensor:
    """Read the logits of val by the selected weights, float32 ``(N, K)``."""
    _run(plan)  # raises if the run is not finished
    epoch = int(read_weights(plan.selected).metadata["epoch"])
    uri = plan.files.checkpoint(checkpoint_name(epoch)).val_logits
    if not exists(uri):
        raise StoreIncomplete(f"there is no {uri}, the selected checkpoint of the run")
    return read_weights(uri).state["val_logits"]


def _evaluation(plan: TrainPlan | None, logits: Mapping[str, Part[Tensor]]) -> Evaluation:
    """Put the networks that have logits side by side; without a plan there are none."""
    if plan is None:
        return Evaluation("", (), (), (), (), np.zeros(0, np.int64), {}, {}, {})
    return Evaluation(
        protocol=Protocol().name,
        class_names=plan.manifest.class_names,
        rows=plan.val_rows,
        sample_ids=tuple(plan.manifest.records[row].sample_id for row in plan.val_rows),
        groups=tuple(plan.manifest.records[row].group for row in plan.val_rows),
        labels=np.array(plan.labels(plan.val_rows), np.int64),
        probabilities={
            role: part.value.double().softmax(dim=1).numpy()
            for role, part in logits.items()
            if part.value is not None
        },
        failures={},
        weights=dict.fromkeys(logits, plan.recipe.train.selection),
        seen=tuple(seen_by_teacher(plan.config.teacher.seen, plan.manifest.records, ("val",))),
    )


def _disagreements(
    plan: TrainPlan, teacher_logits: Tensor, student_logits: Tensor, decoder: DecodeProcess
) -> tuple[Disagreement, ...]:
    """Find the videos whose arg-max differs, those with the largest KL first."""
    teacher = teacher_logits.double().log_softmax(dim=1)
    student = student_logits.double().log_softmax(dim=1)
    kl = (teacher.exp() * (teacher - student)).sum(dim=1)
    kl[student.argmax(dim=1) == teacher.argmax(dim=1)] = -1.0
    names = plan.manifest.class_names

    def likeliest(log_probabilities: Tensor) -> tuple[str, float]:
        value, label = log_probabilities.max(dim=0)
        return names[int(label)], float(value.exp())

    found = []
    for number in kl.argsort(descending=True)[:MAX_DISAGREEMENTS].tolist():
        if kl[number] < 0:
            break
        row = plan.val_rows[number]
        record = plan.manifest.records[row]
        found.append(
            Disagreement(
                _strip(plan.config, plan.manifest, row, decoder, record.sample_id),
                names[record.label],
                likeliest(teacher[number]),
                likeliest(student[number]),
                float(kl[number]),
            )
        )
    return tuple(found)
