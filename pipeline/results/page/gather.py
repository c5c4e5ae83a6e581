"""The facts of the page, gathered from artefacts and MLflow; ``page.py`` renders them.

Without indexed videos there is nothing to report on. Any other part may be missing, for a reason.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest, VideoRecord
from pipeline.dataset.seen import seen_by_teacher
from pipeline.errors import PipelineError, Status, StoreIncomplete, VideoDecodeError
from pipeline.frames.pictures import encode_jpeg
from pipeline.frames.source import read_source, read_videos
from pipeline.logits.examine import Diagnosis, examine
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.store import LogitStore
from pipeline.networks.weight_files import read_weights
from pipeline.results.costs import count_costs, own_subjects
from pipeline.results.evaluation import Evaluation
from pipeline.storage.files import exists, join_uri, list_names, read_record
from pipeline.tracking.server import read_curves
from pipeline.training.checkpoint import checkpoint_name
from pipeline.training.loop import val_teacher_logits
from pipeline.training.plan import open_plan_mirror, plan_student, plan_teacher, vary_student
from pipeline.training.sweep import Point
from pipeline.training.train_plan import TrainPlan
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import EVALUATION_VIEW, Protocol, build_view

T = TypeVar("T")
CURVES = {  # metric -> title
    "val/top1": "Top-1 on val",
    "val/nll": "NLL on val, nats",
    "train/loss": "Training loss, each run its own",
}
Curves = Mapping[str, Sequence[tuple[int, float]]]  # points (step, value) by metric
MAX_CLASS_STRIPS = 12
MAX_DISAGREEMENTS = 9
STRIP_FRAMES, STRIP_SIDE, STRIP_QUALITY = 5, 96, 82


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of the page; one without a value is missing for a reason."""

    value: T | None
    reason: str = ""

    @classmethod
    def of(cls, make: Callable[[], T]) -> Part[T]:
        """Make a part. It is missing if a stage has not run yet, or an artefact is damaged."""
        try:
            return cls(make())
        except PipelineError as error:
            return cls(None, str(error))

    def get(self) -> T:
        """Return the value, or raise the reason, so that parts made from it are missing for it."""
        if self.value is None:
            raise PipelineError(self.reason)
        return self.value


class Strip(NamedTuple):
    """A film strip and its caption. ``image`` is a data URI, empty if the video is unreadable."""

    image: str
    caption: str


@dataclass(frozen=True)
class Dataset:
    """The videos; ``class_counts`` are the good ones of each class, by split."""

    manifest: Manifest
    source: str
    class_counts: Mapping[str, Sequence[int]]
    strips: Sequence[Strip]

    @property
    def good(self) -> list[VideoRecord]:
        return [record for record in self.manifest.records if record.good]

    @property
    def seconds(self) -> float:
        return sum(r.num_frames / r.frame_rate for r in self.good if r.frame_rate)

    @property
    def num_bytes(self) -> int:
        return sum(record.num_bytes for record in self.good)

    @property
    def bad(self) -> list[str]:
        reasons = Counter(Status(r.status).name for r in self.manifest.records if not r.good)
        return [f"{count} {name}" for name, count in sorted(reasons.items())]


@dataclass(frozen=True)
class Store:
    """The logit store and its health."""

    store: LogitStore
    diagnosis: Diagnosis
    num_wanted: int  # cells

    @property
    def num_good(self) -> int:
        return sum(shard.num_good for shard in self.diagnosis.shards)

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.store.seal.files)

    @property
    def top1(self) -> float:
        """The teacher's, over all good cells with a label."""
        num_labelled = sum(shard.num_labelled for shard in self.diagnosis.shards)
        return sum(shard.num_hits for shard in self.diagnosis.shards) / max(num_labelled, 1)

    @property
    def hardest_classes(self) -> list[tuple[str, float]]:
        pairs = zip(self.store.spec.class_names, self.diagnosis.class_top1, strict=True)
        known = [(name, top1) for name, top1 in pairs if not math.isnan(top1)]
        return sorted(known, key=lambda pair: pair[1])[:3]


@dataclass(frozen=True)
class Model:
    """A network of the comparison; its scores are in the evaluation, under its role."""

    role: str  # teacher, baseline or student
    num_parameters: float  # NaN where they cannot be counted
    num_macs: float  # of one clip
    run: Part[dict[str, Any]]  # the run's result.json
    weights_digest: str
    curves: Part[Curves]
    unscored: str  # why it has no scores


@dataclass(frozen=True)
class Facts:
    """All parts of the page."""

    config: ExperimentConfig
    dataset: Part[Dataset]
    store: Part[Store]
    models: tuple[Model, ...]  # teacher, VFL-Net, DVFL-Net
    evaluation: Evaluation  # of those that have scores, by role
    sweep: Mapping[str, Any] | None  # sweep.json with the most seeds of this student
    disagreements: Part[list[dict[str, Any]]]


def gather_facts(config: ExperimentConfig) -> Facts:
    """Read everything that is there.

    StoreIncomplete if not even the videos are indexed, or the config names another place;
    DatasetError if their manifest is damaged.
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

    def disagreements() -> list[dict[str, Any]]:
        both = logits["teacher"].get(), logits["student"].get()
        return _disagreements(student.get(), *both, decoder)

    with closing(DecodeProcess()) as decoder:
        return Facts(
            config=config,
            dataset=Part.of(lambda: _dataset(config, manifest.get(), decoder)),
            store=Part.of(lambda: _store(config, manifest.get())),
            models=tuple(_model(config, role, plan, logits[role]) for role, plan in plans.items()),
            evaluation=_evaluation(student.value, logits),
            sweep=Part.of(lambda: _sweep(student.get())).value,
            disagreements=Part.of(disagreements),
        )


def _dataset(config: ExperimentConfig, manifest: Manifest, decoder: DecodeProcess) -> Dataset:
    names, records = manifest.class_names, manifest.records
    counts = {}
    for split in dict.fromkeys(record.split for record in records):
        there = [records[row].label_number for row in manifest.rows_of(split)]
        counts[split] = [there.count(label) for label in range(len(names))]
    # A video of each class, or of some classes where there are many, as evaluation sees it.
    labels = np.linspace(0, len(names) - 1, min(len(names), MAX_CLASS_STRIPS)).round().astype(int)
    firsts = {records[row].label_number: row for row in reversed(manifest.rows_of("train"))}
    strips = [
        _strip(config, records[firsts[label]], decoder, names[label])
        for label in labels
        if label in firsts
    ]
    return Dataset(manifest, config.frames.source, counts, strips)


def _strip(
    config: ExperimentConfig, record: VideoRecord, decoder: DecodeProcess, caption: str
) -> Strip:
    """Lay a few frames of a video side by side, time going right."""
    view = build_view(config.views, record, EVALUATION_VIEW, num_frames=config.clip.num_frames)
    try:
        (clip,) = decoder.clips(record, [view], config.dataset.limits, side=STRIP_SIDE, prove=False)
    except VideoDecodeError as error:
        return Strip("", f"{caption}: {error.reason}")
    shown = np.linspace(0, len(clip.frames) - 1, STRIP_FRAMES).round().astype(int)
    picture = np.concatenate(list(clip.frames[shown]), axis=1)  # (H, STRIP_FRAMES * W, C)
    jpeg = base64.b64encode(encode_jpeg(picture, STRIP_QUALITY)).decode()
    return Strip(f"data:image/jpeg;base64,{jpeg}", caption)


def _store(config: ExperimentConfig, manifest: Manifest) -> Store:
    store = open_experiment_store(config, manifest)
    num_train = len(manifest.rows_of("train", good=False))
    num_views = len(store.spec.view_indices) - 1  # of training: all but the evaluation view
    num_wanted = num_train * num_views + len(manifest.records) - num_train
    return Store(store, examine(store, manifest.records, config.views), num_wanted)


def _model(
    config: ExperimentConfig, role: str, plan: Part[TrainPlan], logits: Part[Tensor]
) -> Model:
    teacher, student = own_subjects(config)
    subject = teacher if role == "teacher" else student
    uncounted = math.nan, math.nan
    num_parameters, num_macs = uncounted if subject.model.is_program else count_costs(subject)

    def weights_uri() -> str:  # the teacher may have been trained elsewhere
        return config.teacher_weights_uri if role == "teacher" else plan.get().selected

    weights = Part.of(lambda: read_weights(weights_uri())).value
    run = Part.of(lambda: _result(plan.get()))
    return Model(
        role=role,
        num_parameters=num_parameters,
        num_macs=num_macs,
        run=run,
        weights_digest=weights.metadata.get("digest", "") if weights else "",
        curves=Part.of(
            lambda: read_curves(config.tracking_uri, str(run.get()["run_id"]), list(CURVES))
        ),
        unscored=logits.reason,
    )


def _result(plan: TrainPlan) -> dict[str, Any]:
    if not exists(plan.files.result):
        job = f"python jobs/train_{plan.recipe.role}.py"
        raise StoreIncomplete(f"{plan.name} is not trained yet ({job})")
    return read_record(plan.files.result)


def _sweep(plan: TrainPlan) -> dict[str, Any] | None:
    """Read the cell of this student that has the most seeds, and its interval's kind in words."""
    folder, recipe = join_uri(plan.config.artefacts, "sweeps"), plan.recipe
    uris = [join_uri(folder, name, "sweep.json") for name in list_names(folder)]
    sweeps = [read_record(uri) for uri in uris if exists(uri)]
    loss = recipe.loss
    point = Point(loss.distill_weight, loss.temperature, loss.kind)._asdict()

    def is_mine(trial: Mapping[str, Any]) -> bool:
        """Whether it is this student with another seed: names hold all that decides weights."""
        train = recipe.train.model_copy(update={"seed": trial["seed"]})
        return bool(replace(plan, recipe=replace(recipe, train=train)).name == trial["name"])

    cells = [
        cell | {"interval": sweep["interval"]}
        for sweep in sweeps
        if sweep["root_digest"] == plan.root_digest and any(map(is_mine, sweep["trials"]))
        for cell in sweep["cells"]
        if cell["gain"] and point.items() <= cell.items()
    ]
    return max(cells, key=lambda cell: cell["num_seeds"], default=None)


def _teacher_logits(plan: TrainPlan) -> Tensor:
    mirror = open_plan_mirror(plan)
    assert mirror is not None, "a student's plan has a store"
    return val_teacher_logits(plan, mirror)


def _selected_logits(plan: TrainPlan) -> Tensor:
    """Read the logits of val by the selected weights, float32 ``(N, K)``."""
    _result(plan)  # raises if the run is not finished
    epoch = int(read_weights(plan.selected).metadata["epoch"])
    uri = plan.files.checkpoint(checkpoint_name(epoch)).val_logits
    if not exists(uri):
        raise StoreIncomplete(f"there is no {uri}, the selected checkpoint of the run")
    return read_weights(uri).state["val_logits"]


def _evaluation(plan: TrainPlan | None, logits: Mapping[str, Part[Tensor]]) -> Evaluation:
    """Put the networks that have logits side by side; without a plan there are none."""
    if plan is None:
        return Evaluation("", (), (), (), (), np.zeros(0, np.int64), {}, {}, {})
    config, records = plan.config, plan.manifest.records
    seen = Part.of(lambda: seen_by_teacher(config.teacher.seen, records, ("val",)))
    teacher = PurePosixPath(config.teacher_weights_uri).stem
    return Evaluation(
        protocol=Protocol().name,
        class_names=plan.manifest.class_names,
        rows=plan.val_rows,
        sample_ids=tuple(records[row].sample_id for row in plan.val_rows),
        groups=tuple(records[row].group for row in plan.val_rows),
        labels=np.array(plan.labels(plan.val_rows), np.int64),
        probabilities={
            role: part.value.double().softmax(dim=1).numpy()
            for role, part in logits.items()
            if part.value is not None
        },
        failures={},
        weights=dict.fromkeys(logits, config.train.selection) | {"teacher": teacher},
        seen=(f"teacher.seen: {seen.reason}",) if seen.value is None else tuple(seen.value),
    )


def _disagreements(
    plan: TrainPlan, teacher_logits: Tensor, student_logits: Tensor, decoder: DecodeProcess
) -> list[dict[str, Any]]:
    """Find the videos whose arg-max differs, the largest KL(teacher || student) first."""
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
        if kl[number] >= 0:
            record = plan.manifest.records[plan.val_rows[number]]
            found.append(
                {
                    "strip": _strip(plan.config, record, decoder, record.sample_id),
                    "true": names[record.label_number],
                    "teacher": likeliest(teacher[number]),
                    "student": likeliest(student[number]),
                    "kl": float(kl[number]),
                }
            )
    return found
