"""Stores of an imaginary teacher, made at once or step by step, so that a test can stop anywhere.

What the teacher says of a cell is a pure function of the video's content and of the view, as it is
with a real one; and it counts its forward passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest, VideoRecord, build_manifest
from pipeline.errors import Status
from pipeline.logits import generations, inheritance, journal, store
from pipeline.logits.cells import Cells, centre, joined, unit_of
from pipeline.logits.spec import Shard, StoreSpec, Unit, plan_shards, plan_store, plan_units
from pipeline.storage.sealed.store import FileEntry, Seal, finished_units, open_for_writing
from pipeline.views.view import build_view, keyed_hash

K, T = 5, 2
Cell = tuple[str, str, int]  # sample_id, sha256, view_index: all that its logits depend on


@dataclass(frozen=True)
class Video:
    """What there is to say of an imaginary video; another ``version`` is another content."""

    name: str
    split: str = "train"
    version: int = 0
    good: bool = True
    label: int | None = None

    @property
    def record(self) -> VideoRecord:
        return VideoRecord(
            sample_id=self.name,
            uri=f"{self.name}.avi",
            label=keyed_hash(self.name) % K if self.label is None else self.label,
            split=self.split,
            num_frames=9,
            width=64,
            height=48,
            sha256=f"{self.name} {self.version}",
            status=Status.GOOD if self.good else Status.UNREADABLE,
        )


@dataclass(frozen=True)
class Plan:
    """A config of stage one: which videos, how many views, and the rest."""

    videos: tuple[Video, ...]
    num_views: int
    format: str = "parquet"
    seed: int = 0
    clips_per_unit: int = 4
    units_per_shard: int = 2

    @cached_property
    def config(self) -> ExperimentConfig:
        names = ("format", "clips_per_unit", "units_per_shard")
        dataset = {"name": "imaginary", "root": "/videos", "layout": "folders", "num_classes": K}
        return ExperimentConfig.model_validate(
            {
                "artefacts": "/artefacts",
                "dataset": dataset,
                "clip": {"num_frames": T},
                "views": {"num_views": self.num_views, "seed": self.seed},
                "store": {name: getattr(self, name) for name in names},
            }
        )

    @cached_property
    def manifest(self) -> Manifest:
        names = [f"class {label}" for label in range(K)]
        return build_manifest("imaginary", names, [video.record for video in self.videos])

    def row_of(self, name: str) -> int:
        return [record.sample_id for record in self.manifest.records].index(name)

    @cached_property
    def spec(self) -> StoreSpec:
        return plan_store(self.config, manifest=self.manifest, teacher_digest="ab" * 32)

    @cached_property
    def units(self) -> list[Unit]:
        return plan_units(self.spec, self.manifest.records)

    @cached_property
    def shards(self) -> list[Shard]:
        return plan_shards(self.spec, self.units)

    def compute(self, unit: Unit) -> Cells:
        return Teacher().run(self, unit.coordinates)

    def write_units(self, root: str, units: Sequence[Unit]) -> None:
        write_units(root, self.spec, units, self.compute)

    def gather(self, root: str, shard: Shard) -> list[FileEntry]:
        records = self.manifest.records[shard.rows.start : shard.rows.stop]
        return store.gather_shard(root, self.spec, shard, records)

    def write_store(self, root: str, *, backwards: bool = False) -> Seal:
        records = self.manifest.records
        return write_store(root, self.spec, records, self.compute, backwards=backwards)

    @cached_property
    def cells(self) -> dict[tuple[int, int], Cell]:
        """The cells that hold logits once it is sealed, by (row, view_index)."""
        records = self.manifest.records
        return {
            (row, view): (records[row].sample_id, records[row].sha256, view)
            for unit in self.units
            for row, view in unit.coordinates
            if records[row].good
        }


@dataclass
class Teacher:
    """Answers for cells, and counts how often it was asked about each."""

    forwards: Counter[Cell] = field(default_factory=Counter)
    lost: frozenset[Cell] = frozenset()  # cells whose decoder runs out of time

    def run(self, plan: Plan, places: Sequence[tuple[int, int]]) -> Cells:
        """Decode and run cells, given by (row, view_index)."""
        cells = [self._cell(plan, row, view) for row, view in places]
        return joined(cells, plan.spec)

    def _cell(self, plan: Plan, row: int, view_index: int) -> Cells:
        record = plan.manifest.records[row]
        cell = (record.sample_id, record.sha256, view_index)
        status = Status.TIMED_OUT if record.good and cell in self.lost else Status(record.status)
        content: dict[str, Any] = {
            "logits": np.zeros((1, K), np.float16),
            "logit_offset": np.zeros(1, np.float32),
            "view_digest": np.zeros(1, np.uint64),
            "frame_crc": np.zeros((1, T), np.uint32),
        }
        if status == Status.GOOD:
            self.forwards[cell] += 1
            content = self._logits(plan, record, view_index, cell)
        return Cells(
            row=np.array([row], np.int32),
            view_index=np.array([view_index], np.int16),
            status=np.array([status], np.uint8),
            **content,
        )

    @staticmethod
    def _logits(plan: Plan, record: VideoRecord, view_index: int, cell: Cell) -> dict[str, Any]:
        draws = np.random.default_rng(keyed_hash(*cell))
        raw = draws.normal(0, 1, (1, K)).astype(np.float32)
        raw[0, keyed_hash(record.sample_id) % K] += 9
        logits, offset = centre(raw)
        view = build_view(plan.config.views, record, view_index, num_frames=T)
        return {
            "logits": logits,
            "logit_offset": offset,
            "view_digest": np.array([view.digest], np.uint64),
            "frame_crc": draws.integers(0, 2**32, (1, T), np.uint32),
        }


@dataclass
class Writer:
    """One job of stage one. ``steps`` stops after everything that a kill could come between."""

    root: str
    plan: Plan
    teacher: Teacher
    home: str = ""
    seal: Seal | None = None

    def steps(self) -> Iterator[str]:
        """Do what is missing of the store; yield a name after each step."""
        plan, spec = self.plan, self.plan.spec
        self.home = generations.place_generation(self.root, spec, plan.manifest)
        yield "place"
        self.seal = open_for_writing(self.home, spec)
        yield "open"
        generations.record_videos(self.home, plan.manifest)
        yield "record"
        if self.seal is not None:
            return
        donors = inheritance.find_donors(self.root, self.home, spec, plan.manifest)
        yield "donors"
        known: dict[int, frozenset[tuple[int, int]]] = {}
        for shard in plan.shards if donors else ():
            finished = finished_units(self.home)
            known |= inheritance.inherit_units(self.home, spec, shard, donors, finished)
            yield "inherit"
        finished = finished_units(self.home)
        for unit in plan.units:
            if unit.number not in finished:
                self._run(unit, known)
                yield "unit"
        entries = []
        for shard in plan.shards:
            entries += plan.gather(self.home, shard)
            yield "gather"
        self.seal = store.seal_logits(self.home, spec, entries, provenance={})
        yield "seal"

    def finish(self) -> Seal:
        """Run to the end."""
        for _ in self.steps():
            pass
        assert self.seal is not None
        return self.seal

    def _run(self, unit: Unit, known: dict[int, frozenset[tuple[int, int]]]) -> None:
        missing = [p for p in unit.coordinates if p not in known.get(unit.number, ())]
        cells = self.teacher.run(self.plan, missing)
        if known:
            inherited = journal.read_inherited(self.home, self.plan.spec, unit.number)
            cells = joined([cells, inherited], self.plan.spec)
        whole = unit_of(self.plan.spec, unit.number, cells)
        journal.write_fragment(self.home, self.plan.spec, whole, cells)


def cache(root: str, plan: Plan, teacher: Teacher | None = None) -> Writer:
    """Run stage one from start to seal."""
    job = Writer(root, plan, teacher or Teacher())
    job.finish()
    return job


def write_units(
    root: str, spec: StoreSpec, units: Sequence[Unit], compute: Callable[[Unit], Cells]
) -> None:
    """Begin a store and journal some of its units."""
    open_for_writing(root, spec)
    for unit in units:
        journal.write_fragment(root, spec, unit, compute(unit))


def write_store(
    root: str,
    spec: StoreSpec,
    records: Sequence[VideoRecord],
    compute: Callable[[Unit], Cells],
    *,
    backwards: bool = False,
) -> Seal:
    """Make a whole store; the order of its units and shards is recorded, and decides nothing."""
    units, step = plan_units(spec, records), -1 if backwards else 1
    write_units(root, spec, units[::step], compute)
    entries = [
        entry
        for shard in plan_shards(spec, units)[::step]
        for entry in store.gather_shard(
            root, spec, shard, records[shard.rows.start : shard.rows.stop]
        )
    ]
    return store.seal_logits(root, spec, entries, provenance={"backwards": backwards})


# 24 videos of train, 5 of val, one of them bad; three rows a unit, twelve a shard.
BAD_VIDEO = "v_007_ü"
EXAMPLE = Plan(
    tuple(
        Video(name, "train" if n < 24 else "val", good=name != BAD_VIDEO, label=n % K)
        for n, name in enumerate(f"v_{n:03d}_ü" for n in range(29))
    ),
    num_views=3,
    clips_per_unit=10,
    units_per_shard=4,
)
