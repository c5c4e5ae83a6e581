"""The plan of a training run: network, clips in their order, schedule and name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import StudentConfig, TrainConfig
from pipeline.config.schema import Section
from pipeline.dataset.manifest import UNLABELLED, Manifest
from pipeline.errors import ConfigError, DatasetError
from pipeline.logits.spec import TRANSFORM_VERSION
from pipeline.networks.build import build_network
from pipeline.networks.foreign import source_digest
from pipeline.networks.recipe import Recipe
from pipeline.storage.files import join_uri, sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.training.checkpoint import RunFiles
from pipeline.training.clips import TrainingClips
from pipeline.training.order import Order
from pipeline.training.step import Schedule, build_schedule
from pipeline.views.loader import ClipRequest
from pipeline.views.mix import MixGroups, live_groups, store_groups
from pipeline.views.view import POLICY_VERSION, keyed_hash

# Settings of the loop that change neither its order nor its arithmetic.
NOT_PART_OF_KEY = {"audit_rate", "log_every_steps", "max_failures", "num_loaders"}
NOT_PART_OF_KEY |= {"checkpoint_activations"}
# Settings that came later: at their defaults a run has the name that it had before they existed.
LATER = {"network", "selection", "standardise", "dkd_alpha", "dkd_beta"}
LATER |= {"labels_per_class", "labels_seed", "learn_from", "accumulate", "fresh_views"}
# Part of the key when set: compiled kernels round otherwise, and draw drop path otherwise.
LATER |= {"compile"}


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
    # The (row, view_index) that stage one could not decode, of a store that mixes.
    without_pixels: frozenset[tuple[int, int]] = frozenset()

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

    @cached_property
    def num_unlabelled(self) -> int:
        """Videos that are learnt from without a label."""
        return self.labels(self.learnt_rows).count(UNLABELLED)

    @property
    def clips_per_epoch(self) -> int:
        """Equal for all students of a data set, however many videos each of them learns from."""
        return len(self.train_rows if self.recipe.role == "student" else self.learnt_rows)

    @cached_property
    def clips(self) -> TrainingClips:
        policy, groups = self.recipe.policy, None
        if policy.mix is not None:
            records = dict(enumerate(self.manifest.records))
            live = live_groups(policy, self.learnt_rows)
            group_of = store_groups(policy, records) if self.replays else live
            groups = MixGroups(policy, records, group_of, self.without_pixels)
        return TrainingClips(self.recipe, self.manifest.records, groups, self.replays)

    @property
    def replays(self) -> bool:
        """Whether the clips are those of the store.

        From labels alone mixed clips are not, if not all videos of train have a label: a clip that
        is mixed with one without a label has none itself. So the labelled ones mix on their own.
        Nor are fresh views.
        """
        if self.recipe.policy.seed != self.config.views.seed:
            return False
        as_cached = self.recipe.policy.mix is None or self.recipe.loss.distill_weight > 0
        return self.store is not None and (as_cached or self.learnt_rows == self.train_rows)

    @cached_property
    def order(self) -> Order:
        check_labels(self)
        train = self.recipe.train
        return Order(
            partner=self.clips.partner if self.clips.groups else None,
            rows=self.learnt_rows,
            epochs=train.epochs,
            clips_per_epoch=self.clips_per_epoch,
            global_batch_size=train.batch_size * train.accumulate * self.num_workers,
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
            "train": _decisive(self._train_of_key),
            "views": [recipe.policy.content, recipe.num_views, POLICY_VERSION],
            "clip": [recipe.num_frames, recipe.frame_stride, recipe.side, recipe.motion_only],
            **({"frames": "spread"} if recipe.frame_stride > 1 else {}),  # older runs saw others
            "transform": TRANSFORM_VERSION,
            "manifest": self.manifest.digest,
            "store": self.root_digest,
            "num_workers": self.num_workers,
        }
        if self.clips_per_epoch != len(self.learnt_rows):
            decisive["clips_per_epoch"] = self.clips_per_epoch
        return sha256_of(canonical_json(decisive))

    @property
    def _train_of_key(self) -> TrainConfig:
        """Without fresh views where there are none, so that they rename no student of a cache."""
        has_effect = self.recipe.role == "student" and not self.recipe.loss.distill_weight
        return self.recipe.train.model_copy(
            update={"fresh_views": self.recipe.train.fresh_views and has_effect}
        )

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
        num_unlabelled = self.num_unlabelled
        times = f" x {train.accumulate}" if train.accumulate > 1 else ""
        without = f", {num_unlabelled} of them without a label" if num_unlabelled else ""
        if left_out := len(self.train_rows) - len(self.learnt_rows):
            without = f" ({left_out} without a label left out)"
        found, wanted = Counter(self.labels(self.train_rows)), train.labels_per_class or 0
        if few := sum(found[label] < wanted for label in range(len(self.manifest.class_names))):
            without += f"; {few} classes have fewer than {wanted} labels"
        return (
            f"run     {self.name}\n"
            f"videos  {len(self.learnt_rows)} of train{without}, {len(self.val_rows)} of val\n"
            f"steps   {order.num_steps} of {order.global_batch_size} clips "
            f"({self.num_workers} workers x {train.batch_size}{times}), {train.epochs} epochs\n"
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
            yield [self.clips.request(epoch, row) for epoch, row in pairs]

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


def check_labels(plan: TrainPlan) -> None:
    """Refuse a loss that the labels of train do not allow."""
    loss, num_unlabelled = plan.recipe.loss, plan.num_unlabelled
    if num_unlabelled == len(plan.learnt_rows) and loss.distill_weight < 1.0:
        raise DatasetError(
            f"no video of train has a label, and loss.distill_weight is {loss.distill_weight:g}:"
            " set it to 1, or name videos with labels"
        )
    mixed = plan.recipe.policy.mix is not None and loss.distill_weight > 0
    if mixed and plan.learnt_rows != plan.train_rows:
        raise ConfigError(
            "train.learn_from: labelled videos alone cannot be learnt from this store, whose clips"
            " are mixed with those of videos without a label (views.mix)"
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
