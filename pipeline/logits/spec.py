"""The spec of a logit store: the identity of its logits, and its layout. Arithmetic, no storage.

The identity is everything that decides a logit, and nothing else: batch sizes, threads, workers and
URIs are left out. Its fingerprint is written into each file of the store.

The layout cuts cells into units, and units into shards. A unit is a few consecutive rows of the
manifest with all their wanted views; it is decoded, run and journalled together. A shard is a run
of whole units and becomes one file, or one object an array, written by exactly one task. Both are
functions of the manifest and of the layout alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest, VideoRecord
from pipeline.errors import ConfigError, StoreCorrupt, StoreIncomplete
from pipeline.storage.files import sha256_of
from pipeline.storage.sealed.identity import canonical_json, decode_identity
from pipeline.storage.sealed.store import Spec
from pipeline.views.view import EVALUATION_VIEW, POLICY_VERSION

SCHEMA_VERSION = 1  # of the logit store; raise it when a file or an array changes meaning
TRANSFORM_VERSION = 1  # resizer, photometric operations, normalisation; raise it when pixels change
MAX_SHARD_BYTES = 32 * 2**20  # of logits: small for a task's memory, large for an object store

# What auto stands for in store.clips_per_unit is chosen by these.
UNIT_BYTES, UNIT_BYTES_ON_GPUS = 64 * 10**6, 128 * 10**6  # of pixels, which fill the object store
MIN_CLIPS, MAX_CLIPS = 64, 1024  # of a unit, rounded up and down to whole mix groups
MIN_UNITS = 256  # of a store, as far as MIN_CLIPS lets it: enough for some dozens of teachers


@dataclass(frozen=True)
class Unit:
    """Consecutive rows and, for each of them, the view indices that are wanted."""

    number: int
    first_row: int
    views: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> range:
        return range(self.first_row, self.first_row + len(self.views))

    @property
    def coordinates(self) -> list[tuple[int, int]]:
        """The (row, view_index) of every wanted cell, in the order of the fragment."""
        pairs = zip(self.rows, self.views, strict=True)
        return [(row, view_index) for row, views in pairs for view_index in views]


@dataclass(frozen=True)
class Shard:
    """Consecutive units."""

    number: int
    units: tuple[Unit, ...]

    @property
    def rows(self) -> range:
        return range(self.units[0].first_row, self.units[-1].rows.stop)


@dataclass(frozen=True)
class StoreSpec(Spec):
    """All that a task must know of a store: the identity of its logits, and its layout.

    The layout shapes files and not logits, so it is not fingerprinted; but units of two sizes must
    not mix in one journal, so it is compared as well before anything is added to a store.
    """

    class_names: tuple[str, ...]
    num_rows: int
    num_frames: int
    view_indices: tuple[int, ...]  # the view axis: training views from 0, then the evaluation view
    format: Literal["zarr", "parquet"]
    clips_per_unit: int
    units_per_shard: int

    @property
    def teacher_digest(self) -> str:
        return str(self.identity["teacher"]["weights_sha256"])

    @property
    def blended(self) -> bool:
        """Whether the logits are the mean of several teachers' (``pipeline.logits.blend``)."""
        return "blend" in self.identity["teacher"]

    @property
    def mixes(self) -> bool:
        """Whether clips of train are mixed with each other (``pipeline.views.mix``)."""
        return "mix" in self.identity.get("views", {})

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def rows_per_unit(self) -> int:
        """Rows of a unit, whole mix groups if there are any; the last unit may be shorter."""
        rows = max(1, self.clips_per_unit // (len(self.view_indices) - 1))
        group = self.identity["views"]["mix"]["group_size"] if self.mixes else 1
        return int(max(rows // group, 1) * group)

    @property
    def rows_per_shard(self) -> int:
        """Rows of a shard; the last one may be shorter."""
        return min(self.rows_per_unit * self.units_per_shard, self.num_rows)

    @property
    def num_units(self) -> int:
        return -(-self.num_rows // self.rows_per_unit)

    def unit_rows(self, number: int) -> range:
        first = number * self.rows_per_unit
        return range(first, min(first + self.rows_per_unit, self.num_rows))

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.rows_per_shard)

    def shard_rows(self, number: int) -> range:
        first = number * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.num_rows))

    def slots(self, view_indices: ArrayLike) -> NDArray[np.intp]:
        """Return view indices as positions on the view axis; StoreIncomplete if one is missing."""
        wanted = np.asarray(view_indices)
        matches: NDArray[np.bool_] = wanted[..., None] == np.array(self.view_indices)
        if not matches.any(axis=-1).all():
            unknown = sorted({*wanted.ravel().tolist()} - {*self.view_indices})
            raise StoreIncomplete(
                f"the store has the views {list(self.view_indices)}, not {unknown}; "
                "run jobs/cache_teacher.py with the views that are wanted"
            )
        slots: NDArray[np.intp] = matches.argmax(axis=-1)
        return slots


def plan_store(config: ExperimentConfig, *, manifest: Manifest, teacher_digest: str) -> StoreSpec:
    """Plan the store of an experiment; ConfigError if its shards would be too large."""
    clips_per_unit = config.store.clips_per_unit
    if clips_per_unit == "auto":
        clips_per_unit = choose_unit(config, manifest)
    spec = StoreSpec(
        identity=build_identity(config, manifest=manifest, teacher_digest=teacher_digest),
        class_names=manifest.class_names,
        num_rows=len(manifest.records),
        num_frames=config.clip.num_frames,
        view_indices=(*range(config.views.num_views), EVALUATION_VIEW),
        format=config.store.format,
        clips_per_unit=clips_per_unit,
        units_per_shard=config.store.units_per_shard,
    )
    num_bytes = 2 * spec.rows_per_shard * len(spec.view_indices) * spec.num_classes
    if num_bytes > MAX_SHARD_BYTES:
        raise ConfigError(
            f"store.units_per_shard: {spec.units_per_shard} makes shards of {num_bytes:,} bytes, "
            f"over {MAX_SHARD_BYTES:,}; use at most "
            f"{max(1, spec.units_per_shard * MAX_SHARD_BYTES // num_bytes)}"
        )
    return spec


def choose_unit(config: ExperimentConfig, manifest: Manifest) -> int:
    """Return clips_per_unit for a new store: whole mix groups, and nothing of the machine.

    Larger units cost the driver less, smaller ones less memory and less work after a kill.
    """
    clip, views = config.clip, config.views
    num_train = len(manifest.rows_of("train", good=False))
    num_clips = num_train * views.num_views + len(manifest.records) - num_train
    num_bytes = UNIT_BYTES_ON_GPUS if config.cluster.use_gpu else UNIT_BYTES
    # A shard has the evaluation view's column beside those of the training views.
    bytes_per_clip = 2 * len(manifest.class_names) * (views.num_views + 1) / views.num_views
    most = min(
        MAX_CLIPS,
        num_bytes // (clip.num_frames * clip.side**2 * 3),
        num_clips // MIN_UNITS,
        int(MAX_SHARD_BYTES / config.store.units_per_shard / bytes_per_clip),
    )
    whole = views.num_views * (views.mix.group_size if views.mix else 1)
    return max(most // whole, -(-MIN_CLIPS // whole)) * whole


def plan_units(spec: StoreSpec, records: Sequence[VideoRecord]) -> list[Unit]:
    size, splits = spec.rows_per_unit, [record.split for record in records]
    return [
        cut_unit(spec, number, splits[first : first + size])
        for number, first in enumerate(range(0, len(splits), size))
    ]


def cut_unit(spec: StoreSpec, number: int, splits: Sequence[str]) -> Unit:
    """Return a unit, given the splits of its videos.

    Videos of split ``train`` have a cell for every training view, all others one for the evaluation
    view. So have bad videos: their cells hold the reason why there are no logits.
    """
    training, evaluation = spec.view_indices[:-1], spec.view_indices[-1:]
    views = tuple(training if split == "train" else evaluation for split in splits)
    return Unit(number, number * spec.rows_per_unit, views)


def plan_shards(spec: StoreSpec, units: Sequence[Unit]) -> list[Shard]:
    size = spec.units_per_shard
    return [
        Shard(number, tuple(units[first : first + size]))
        for number, first in enumerate(range(0, len(units), size))
    ]


def cell_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that decides what a cell holds, given its video and view.

    The rest is the extent: which videos and how many views there are. Stores that differ in
    nothing else hold the same cells where they overlap.
    """
    dataset = {name: v for name, v in identity["dataset"].items() if name != "manifest_digest"}
    views = {name: v for name, v in identity["views"].items() if name != "num_views"}
    return {**identity, "dataset": dataset, "views": views}


def build_identity(
    config: ExperimentConfig, *, manifest: Manifest, teacher_digest: str
) -> dict[str, Any]:
    """Collect everything that decides a logit of this experiment, as plain JSON values.

    ``teacher_digest`` is over the sorted names, shapes, dtypes and bytes of the teacher's state,
    and not over its file, which changes when it is saved again. For a teacher that is no
    Video-FocalNet it also covers its source file.
    """
    teacher, frames = config.teacher, config.frames
    # The manifest's digest covers prepared frames. They stand here so that a mismatch names them.
    prepared = {"frames": frames.content} if frames.source == "prepared" else {}
    network: dict[str, Any] = {"network": teacher.network_identity}
    if not teacher.foreign:
        depths = None if teacher.depths is None else list(teacher.depths)
        network = {"variant": teacher.variant, "embed_dim": teacher.embed_dim, "depths": depths}
    return {
        "schema_version": SCHEMA_VERSION,
        "transform_version": TRANSFORM_VERSION,
        "teacher": {**network, "weights_sha256": teacher_digest, "precision": teacher.precision},
        "dataset": {
            "manifest_digest": manifest.digest,
            "num_classes": len(manifest.class_names),
            # The manifest's digest covers the names. They stand here so that a mismatch names them.
            "class_names_sha256": sha256_of(canonical_json(manifest.class_names)),
        },
        "views": {"policy_version": POLICY_VERSION, **config.views.content},
        "clip": config.clip.model_dump(mode="json"),
        "logits": {"dtype": "float16", "centred": True},
        **prepared,
    }


def decode_spec(content: bytes, uri: str) -> StoreSpec:
    """Decode the ``identity.json`` at ``uri``.

    FingerprintMismatch if it has the schema of another version of this program; StoreCorrupt if it
    is not exactly what was written.
    """
    identity, layout = decode_identity(content, uri=uri, schema_version=SCHEMA_VERSION)
    try:
        tuples = {name: tuple(layout[name]) for name in ("class_names", "view_indices")}
        return StoreSpec(identity=identity, **{**layout, **tuples})
    except (TypeError, KeyError) as error:
        raise StoreCorrupt(uri, expected="the layout of a store", found=repr(error)) from error
