"""The plan of a training run: network, clips in their order, schedule and name; and its making."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import Section, StudentConfig
from pipeline.dataset.manifest import UNLABELLED, Manifest
from pipeline.errors import ConfigError, DatasetError, Status, StoreIncomplete
from pipeline.frames.source import read_source
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.mirror import Mirror, open_mirror
from pipeline.logits.spec import TRANSFORM_VERSION
from pipeline.logits.store import LogitStore
from pipeline.networks.build import build_network, init_digest
from pipeline.networks.foreign import examine, source_digest
from pipeline.networks.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.networks.teacher import teacher_digest
from pipeline.storage.files import exists, join_uri, sha256_of
from pipeline.storage.locks import MIRRORS
from pipeline.storage.sealed.identity import canonical_json
from pipeline.training.checkpoint import RunFiles
from pipeline.training.order import Order
from pipeline.training.proof import is_audited
from pipeline.training.step import Schedule, build_schedule
from pipeline.views.loader import ClipRequest
from pipeline.views.mix import MixGroups, rows_to_mix
from pipeline.views.view import EVALUATION_VIEW, POLICY_VERSION, keyed_hash

# Settings of the loop that change neither its order nor its arithmetic.
NOT_PART_OF_KEY = {"audit_rate", "log_every_steps", "max_failures", "num_loaders"}
# Settings that came later: at their defaults a run has the name that it had before they existed.
LATER = {"network", "selection", "standardise", "dkd_alpha", "dkd_beta"}
LATER |= {"labels_per_class", "labels_seed", "learn_from"}


@dataclass(frozen=True)
class StoreReference:
    """The sealed logit store that a run learns from.

    ``run_id`` is that of the MLflow run that made it, empty if there was none.
    """

    uri: str
    root_digest: str
    fingerprint: str
    teacher_digest: str
    run_id: str


@dataclass(frozen=True)
class TrainPlan:
    """A training run, complete but for the weights.

    ``train_rows`` may be learnt from, with a label or without.
    ``store`` is None for a teacher, which learns from labels alone. ``init_digest`` is of the
    weights that training starts from, and empty for random ones.
    """

    config: ExperimentConfig
    recipe: Recipe
    manifest: Manifest
    train_rows: tuple[int, ...]
    val_rows: tuple[int, ...]
    store: StoreReference | None
    init_digest: str
    without_pixels: frozenset[int] = frozenset()  # rows that stage one could not decode

    @property
    def num_workers(self) -> int:
        return self.config.cluster.num_workers

    @cached_property
    def learnt_rows(self) -> tuple[int, ...]:
        """The rows that the run learns from: by labels alone only those that have one."""
        if self.recipe.loss.distill_weight and self.recipe.train.learn_from == "all":
            return self.train_rows
        return tuple(row for row in self.train_rows if row in self._known_labels)

    @cached_property
    def _known_labels(self) -> dict[int, int]:
        """Row -> label: of val, and of the videos of train whose label the run may know."""
        records, train = self.manifest.records, self.recipe.train
        seed = train.seed if train.labels_seed is None else train.labels_seed
        rows = [row for row in self.manifest.rows_of("train") if records[row].label is not None]
        rows.sort(key=lambda row: keyed_hash(seed, "labels", records[row].sample_id))
        of_class = defaultdict[int, list[int]](list)
        for row in rows:
            of_class[records[row].label_number].append(row)
        drawn = [row for rows in of_class.values() for row in rows[: train.labels_per_class]]
        return {row: records[row].label_number for row in (*drawn, *self.val_rows)}

    @property
    def clips_per_epoch(self) -> int:
        """Equal for all students of a data set, however many videos each of them learns from."""
        return len(self.train_rows if self.recipe.role == "student" else self.learnt_rows)

    @cached_property
    def mixes(self) -> MixGroups | None:
        """The pairs that are mixed: those of the store, or live ones among the learnt rows."""
        policy, records = self.recipe.policy, dict(enumerate(self.manifest.records))
        if policy.mix is None:
            return None
        rows = rows_to_mix(records) if self.replays else self.learnt_rows
        return MixGroups(policy, records, rows, self.without_pixels)

    @cached_property
    def replays(self) -> bool:
        """Whether the clips are those of the store.

        Clips that are mixed are not if some rows are not learnt and labels alone are: a clip that
        is mixed with one without a label has none.
        """
        everything = self.recipe.policy.mix is None or self.recipe.loss.distill_weight > 0
        return self.store is not None and (everything or self.learnt_rows == self.train_rows)

    @cached_property
    def order(self) -> Order:
        check_labels(self)
        train = self.recipe.train
        return Order(
            partner=self._partner if self.mixes else None,
            rows=self.learnt_rows,
            epochs=train.epochs,
            clips_per_epoch=self.clips_per_epoch,
            global_batch_size=train.batch_size * self.num_workers,
            seed=train.seed,
        )

    @cached_property
    def schedule(self) -> Schedule:
        return build_schedule(
            self.recipe.optim,
            global_batch_size=self.order.global_batch_size,
            steps_per_epoch=self.order.num_steps / self.order.epochs,
            num_steps=self.order.num_steps,
        )

    @property
    def root_digest(self) -> str:
        """Digest of the store as keys and weights files hold it; empty without a store."""
        return self.store.root_digest if self.store else ""

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides the trained weights, up to rounding."""
        recipe = self.recipe
        # A teacher's section also has settings of stage one. Initial weights count by their digest.
        model = _decisive(recipe.model)
        network = {name: model[name] for name in StudentConfig.model_fields if name in model}
        if recipe.model.foreign:
            network["source"] = source_digest(recipe.model.network)
        decisive = {
            "role": recipe.role,
            "model": network | {"init_weights": None},
            "init_weights": self.init_digest,
            "loss": _decisive(recipe.loss),
            "optim": _decisive(recipe.optim),
            "train": _decisive(recipe.train),
            "views": [recipe.policy.content, recipe.num_views, POLICY_VERSION],
            "clip": [recipe.num_frames, recipe.frame_stride, recipe.side, recipe.motion_only],
            "transform": TRANSFORM_VERSION,
            "manifest": self.manifest.digest,
            "store": self.root_digest,
            "num_workers": self.num_workers,
        }
        if self.clips_per_epoch != len(self.learnt_rows):
            decisive["clips_per_epoch"] = self.clips_per_epoch
        return sha256_of(canonical_json(decisive))

    @property
    def name(self) -> str:
        recipe = self.recipe
        settings = f"{recipe.role}-{recipe.model.title}{recipe.model.embed_dim or ''}"
        labels = f"-l{count}" if (count := recipe.train.labels_per_class) else ""
        if recipe.role == "student":
            weight, temperature = recipe.loss.distill_weight, recipe.loss.temperature
            settings = f"dvflnet-w{weight:g}-t{temperature:g}" if weight else "vflnet"
        return f"{settings}{labels}-s{recipe.train.seed}-{self.key[:6]}"

    @property
    def folder(self) -> str:
        return join_uri(self.config.artefacts, "runs", self.name)

    @property
    def files(self) -> RunFiles:
        return RunFiles(self.folder)

    @property
    def selected(self) -> str:
        """URI of the weights that ``train.selection`` names."""
        return self.files.best if self.recipe.train.selection == "best" else self.files.last

    def build_network(self) -> nn.Module:
        """Build the run's network, freshly initialised from torch's global generator."""
        return build_network(
            self.recipe.model,
            num_classes=len(self.manifest.class_names),
            num_frames=self.recipe.clip_num_frames,
        )

    def as_text(self) -> str:
        order, train = self.order, self.recipe.train
        num_unlabelled = self.labels(self.learnt_rows).count(UNLABELLED)
        without = f", {num_unlabelled} of them without a label" if num_unlabelled else ""
        if left_out := len(self.train_rows) - len(self.learnt_rows):
            without = f" ({left_out} without a label left out)"
        return (
            f"run     {self.name}\n"
            f"videos  {len(self.learnt_rows)} of train{without}, {len(self.val_rows)} of val\n"
            f"steps   {order.num_steps} of {order.global_batch_size} clips "
            f"({self.num_workers} workers x {train.batch_size}), {train.epochs} epochs\n"
            f"rate    up to {self.schedule.peak:.3g}, {self.recipe.optim.kind}"
        )

    def evaluated_epochs(self) -> list[int]:
        """Return the epochs, from 1, after which val is evaluated and a checkpoint is written."""
        every, last = self.recipe.train.evaluate_every_epochs, self.recipe.train.epochs
        return sorted({*range(every, last + 1, every), last})

    def train_requests(self, first_step: int, rank: int) -> Iterator[list[ClipRequest]]:
        """Yield a worker's part of every step that is left."""
        for step in range(first_step, self.order.num_steps):
            pairs = self.order.batch(step, rank=rank, num_workers=self.num_workers)
            yield [self._train_request(epoch, row) for epoch, row in pairs]

    def val_requests(self, rank: int) -> Iterator[list[ClipRequest]]:
        """Yield a worker's part of val; the parts of all workers hold each video once."""
        recipe, size = self.recipe, self.config.evaluate.batch_size
        rows = self.val_rows[rank :: self.num_workers]
        for start in range(0, len(rows), size):
            pairs = [(row, self.manifest.records[row]) for row in rows[start : start + size]]
            yield [
                ClipRequest(row, record, recipe.evaluation_view(record), recipe.frame_stride)
                for row, record in pairs
            ]

    def labels(self, rows: Sequence[int]) -> list[int]:
        return [self._known_labels.get(row, UNLABELLED) for row in rows]

    def _train_request(self, epoch: int, row: int) -> ClipRequest:
        recipe, view_index = self.recipe, self._view_index(epoch, row)
        partner = self._partner(epoch, row) if self.mixes else None
        # Both of a pair are audited, or none.
        first, rate = min(row, row if partner is None else partner), recipe.train.audit_rate
        proved = self.replays and is_audited(recipe.train.seed, epoch, first, rate)

        def request(row: int) -> ClipRequest:
            record = self.manifest.records[row]
            view = recipe.view(record, view_index)
            return ClipRequest(row, record, view, recipe.frame_stride, prove=proved)

        own = request(row)
        if partner is None or self.mixes is None:
            return own
        other = request(partner)
        view = self.mixes.mixed(own.view, row, other.view, partner)
        return replace(own, view=view, partner=other)

    def _view_index(self, epoch: int, row: int) -> int:
        # A pair shows the same view of both.
        name = self.manifest.records[row].sample_id
        return self.recipe.view_index(self.mixes.group_name(row) if self.mixes else name, epoch)

    def _partner(self, epoch: int, row: int) -> int | None:
        assert self.mixes is not None
        return self.mixes.partner(row, self._view_index(epoch, row))


def plan_student(config: ExperimentConfig) -> TrainPlan:
    """Check the store and plan the student's run; starts nothing.

    StoreIncomplete if there is no sealed store, FingerprintMismatch if it was made from something
    else than the config names, DatasetError if no video of train, or none of val, is left.
    """
    manifest = read_source(config)
    # A student needs no weights of its teacher; where they are present, they are compared too.
    there = exists(config.teacher_weights_uri)
    teacher = teacher_digest(config, manifest.class_names) if there else None
    store = open_experiment_store(config, manifest, teacher_digest=teacher)
    return _plan(config, student_recipe(config), manifest, store)


def plan_teacher(config: ExperimentConfig) -> TrainPlan:
    """Plan the teacher's run; starts nothing."""
    return _plan(config, teacher_recipe(config), read_source(config), store=None)


def vary_student(plan: TrainPlan, config: ExperimentConfig) -> TrainPlan:
    """Plan another student of the same store and rows: another loss, other training settings."""
    return replace(plan, config=config, recipe=student_recipe(config))


def own_students(config: ExperimentConfig) -> list[str]:
    """Return the weights of the experiment's students that are there, DVFL-Net the last.

    ``train.selection`` says of which epoch. StoreIncomplete if the experiment's student was not
    trained to its end.
    """
    student = plan_student(config)
    plans = [vary_student(student, arm) for arm in config.students.values()]
    uris = {plan.name: plan.selected for plan in plans}
    *_, (name, uri) = uris.items()
    if not exists(uri):
        raise StoreIncomplete(
            f"there is no {uri}: {name} was not trained yet. Run jobs/train_student.py with this "
            "config, or name its weights file."
        )
    return [uri for uri in uris.values() if exists(uri)]


def open_plan_mirror(plan: TrainPlan) -> Mirror | None:
    """Open this machine's copy of the store, if the run learns from one."""
    return open_mirror(plan.store.uri, MIRRORS) if plan.store else None


def _plan(
    config: ExperimentConfig, recipe: Recipe, manifest: Manifest, store: LogitStore | None
) -> TrainPlan:
    """Choose the rows that can be trained and evaluated on."""
    # By name, so that a run does not depend on where its videos stand in the manifest.
    train_rows, val_rows = (
        sorted(manifest.rows_of(split), key=lambda row: manifest.records[row].sample_id)
        for split in ("train", "val")
    )
    reference, without_pixels = None, frozenset[int]()
    if store is not None:
        reference = StoreReference(
            uri=store.root,
            root_digest=store.root_digest,
            fingerprint=store.spec.fingerprint,
            teacher_digest=store.spec.teacher_digest,
            run_id=str(store.seal.provenance.get("run_id", "")),
        )
        mirror = open_mirror(store.root, MIRRORS)
        without_pixels = _without_pixels(mirror, train_rows)
        train_rows = _with_logits(mirror, train_rows, list(range(recipe.num_views)))
        val_rows = _with_logits(mirror, val_rows, [EVALUATION_VIEW])
    for split, rows in (("train", train_rows), ("val", val_rows)):
        if not rows:
            raise DatasetError(f"{config.manifest_uri} has no good video of split {split}")
        left_out = len(manifest.rows_of(split, good=False)) - len(rows)
        if left_out:
            print(f"left out: {left_out} videos of {split} that are bad or have no teacher logits")
    plan = TrainPlan(
        config=config,
        recipe=recipe,
        manifest=manifest,
        train_rows=tuple(train_rows),
        val_rows=tuple(val_rows),
        store=reference,
        init_digest=init_digest(recipe.model),
        without_pixels=without_pixels,
    )
    check_labels(plan)
    if recipe.model.foreign:
        network, shape = plan.build_network().eval(), (recipe.clip_num_frames, recipe.side)
        examine(network, recipe.model.network, len(manifest.class_names), shape)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ConfigError(f"{recipe.model.network} has no parameter that can be trained")
    return plan


def check_labels(plan: TrainPlan) -> None:
    """Refuse a loss that the labels of train do not allow."""
    labels, loss = plan.labels(plan.learnt_rows), plan.recipe.loss
    num_unlabelled = labels.count(UNLABELLED)
    if num_unlabelled == len(labels) and loss.distill_weight < 1.0:
        raise DatasetError(
            f"no video of train has a label, and loss.distill_weight is {loss.distill_weight:g}:"
            " set it to 1, or name videos with labels"
        )
    if num_unlabelled and loss.kind == "dkd" and loss.distill_weight:
        raise ConfigError(
            f"loss.kind: dkd needs labels, and {num_unlabelled} videos of train have none"
        )


def _decisive(section: Section) -> dict[str, Any]:
    """Return the settings of a section that belong to the key of a run."""
    return {
        name: value
        for name, value in section.model_dump(mode="json").items()
        if name not in NOT_PART_OF_KEY
        and not (name in LATER and value == type(section).model_fields[name].default)
    }


def _without_pixels(mirror: Mirror, rows: list[int]) -> frozenset[int]:
    """Return the rows that stage one could not decode: their partners stayed unmixed."""
    status = mirror.status[rows, 0]
    return frozenset(np.array(rows)[~np.isin(status, [Status.GOOD, Status.BAD_LOGITS])].tolist())


def _with_logits(mirror: Mirror, rows: list[int], view_indices: list[int]) -> list[int]:
    """Keep the rows whose views all have logits."""
    slots = mirror.spec.slots(view_indices)
    return [row for row in rows if (mirror.status[row, slots] == Status.GOOD).all()]
