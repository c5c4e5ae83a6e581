"""Stage one: the teacher's logits of every wanted view of every video, in a sealed store.

::

    plan      manifest -> fixed units; to do = units that the journal does not hold
    inherit   cells that other generations of the store hold go into the journal
    run       decode (processes) -> teacher (actors) -> journal (one fragment a unit)
    seal      one task a shard, then seal.json

A unit's content depends on the manifest, the views and the teacher alone, so any number of workers,
killed and started again at any point, ends in the same store, digest for digest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import (
    Manifest,
    VideoRecord,
    check_failed_fraction,
    check_order,
    without_label,
)
from pipeline.dataset.seen import seen_by_teacher
from pipeline.errors import Status, WeightsMismatch
from pipeline.frames.source import read_source
from pipeline.logits.cells import chosen
from pipeline.logits.generations import keep_unit, place_generation, record_videos
from pipeline.logits.inheritance import find_donors, inherit_units
from pipeline.logits.journal import read_fragment
from pipeline.logits.spec import Shard, StoreSpec, Unit, plan_shards, plan_store, plan_units
from pipeline.logits.store import LogitStore, gather_shard, open_store, seal_logits
from pipeline.networks.numerics import numerics_of
from pipeline.networks.teacher import check_teacher
from pipeline.results.figures import COLOURS
from pipeline.stages.cache_steps import TeacherActor, UnitDecoder, journal_unit, unit_block
from pipeline.stages.cluster import check_importable, least, ray_session, required_cpus
from pipeline.stages.index import show_bad
from pipeline.stages.pool_sizes import ClusterPools
from pipeline.stages.stream import MAX_WARNINGS, Step, network_resources, run_tasks, stream
from pipeline.storage.files import join_uri
from pipeline.storage.sealed.store import finished_units, open_for_writing
from pipeline.tracking.progress import Progress
from pipeline.tracking.provenance import seal_provenance
from pipeline.tracking.run import TrackedRun, is_unfinished, open_run
from pipeline.views.mix import MixGroups, store_groups

STAGE = "cache_teacher"
JOURNAL_CPU_SHARE = 0.25

Known = Mapping[int, frozenset[tuple[int, int]]]  # by unit: (row, view_index) of inherited cells


@dataclass(frozen=True)
class CachePlan:
    """The store to make, and the units that fill it."""

    config: ExperimentConfig
    manifest: Manifest
    spec: StoreSpec
    root: str  # URI of the generation: store.uri, or below it if that holds fewer views or videos
    units: tuple[Unit, ...]  # of the whole store, those with videos of val first

    @property
    def num_clips(self) -> int:
        return sum(len(unit.coordinates) for unit in self.units)

    @property
    def shards(self) -> list[Shard]:
        return plan_shards(self.spec, sorted(self.units, key=lambda unit: unit.number))

    def records(self, rows: range) -> Sequence[VideoRecord]:
        return self.manifest.records[rows.start : rows.stop]

    def evaluates(self, unit: Unit) -> bool:
        """Whether a unit holds videos of val, on which the teacher is judged."""
        return any(self.manifest.records[row].split == "val" for row in unit.rows)

    def as_text(self) -> str:
        num_bytes = self.num_clips * (2 * self.spec.num_classes + 13 + 4 * self.spec.num_frames)
        grown = self.root != self.config.store_uri
        return (
            f"store        {self.root} ({self.spec.format})\n"
            + (f"grows        {self.config.store_uri}\n" if grown else "")
            + f"fingerprint  {self.spec.fingerprint}\n"
            f"videos       {len(self.manifest.records)}{without_label(self.manifest.records)}\n"
            f"clips        {self.num_clips} in {len(self.units)} units and "
            f"{self.spec.num_shards} shards\n"
            f"bytes        about {num_bytes:,} before compression"
            + "".join(
                f"\n{line}"
                for line in seen_by_teacher(self.config.teacher.seen, self.manifest.records)
            )
        )


def plan_cache(config: ExperimentConfig) -> CachePlan:
    """Read the manifest, check the teacher and plan the store; changes nothing.

    FingerprintMismatch if there is another store at its place, or a larger one.
    """
    manifest = read_source(config)
    if config.views.mix is not None:
        check_order(manifest, config.manifest_uri)
    digest = check_teacher(config, manifest.class_names)
    spec = plan_store(config, manifest=manifest, teacher_digest=digest)
    root = place_generation(config.store_uri, spec, manifest)
    if config.store.clips_per_unit == "auto":
        spec = keep_unit(config.store_uri, root, spec)
    plan = CachePlan(config, manifest, spec, root, tuple(plan_units(spec, manifest.records)))
    val_first = sorted(plan.units, key=lambda unit: not plan.evaluates(unit))
    return replace(plan, units=tuple(val_first))


def run_cache_teacher(plan: CachePlan, ray_address: str) -> LogitStore:
    """Run the units that the journal lacks, seal the store and return it.

    Raises:
        FingerprintMismatch: if there is another store at its place.
        WeightsMismatch: if the teacher is worse on val than ``teacher.min_top1``.
        TooManyFailedVideos: before sealing, if too many videos are bad.
    """
    config, cluster = plan.config, plan.config.cluster
    print(plan.as_text(), flush=True)
    sealed = open_for_writing(plan.root, plan.spec) is not None
    record_videos(plan.root, plan.manifest)
    if sealed:
        print("sealed, nothing to do")
        # A job may have been killed after the seal, before the end of its run in MLflow.
        if not is_unfinished(config, stage=STAGE, key=plan.spec.fingerprint):
            return open_store(plan.root)
    num_cpus = required_cpus(cluster.num_decoders, cluster.num_teachers)
    session = ray_session(
        config, ray_address, num_cpus=num_cpus, num_networks=least(cluster.num_teachers)
    )
    with nullcontext() if sealed else session, _open_run(plan) as run:
        if not sealed:
            check_importable(config.teacher)
            _run_units(plan, run)
            _seal_store(plan, run.run_id)
        store = open_store(plan.root)
        _report(plan, store, run)
    return store


def _run_units(plan: CachePlan, run: TrackedRun) -> None:
    """Run the units that the journal lacks; judge the teacher as soon as val is complete."""
    known = _inherit(plan)
    finished = finished_units(plan.root)
    todo = [unit for unit in plan.units if unit.number not in finished]
    waiting = {unit.number for unit in todo if plan.evaluates(unit)}
    if not waiting:
        _judge_teacher(plan)
    pools = ClusterPools(plan.config)
    pools.show()
    num_bad, meter = 0, Meter(pools.num_teachers)
    num_clips = sum(len(unit.coordinates) - len(known.get(unit.number, ())) for unit in todo)
    steps = unit_steps(plan, inheriting=bool(known))
    # Closed at once where the teacher is refused, so that its actors give their CPUs back.
    with (
        Progress("cache", num_clips, "clips") as progress,
        closing(stream(unit_blocks(plan, todo, known), *steps)) as tables,
    ):
        for summary in (summary for table in tables for summary in table.to_pylist()):
            meter.add(summary)
            metrics = meter.metrics
            top1, busy = metrics["cache/top1"], metrics["cache/teacher_share"]
            note = f"teacher top-1 {top1:.3f}, busy {busy:.0%}"
            progress.advance(summary["num_cells"], note=note)
            run.log_metrics(int(metrics["cache/clips"]), metrics)
            for failure in summary["failures"][: max(0, MAX_WARNINGS - num_bad)]:
                progress.warn(f"bad video: {failure}")
            num_bad += len(summary["failures"])
            if summary["unit"] in waiting:
                waiting.remove(summary["unit"])
                if not waiting:
                    _judge_teacher(plan)


def _inherit(plan: CachePlan) -> Known:
    """Journal units that other generations hold; return the known cells of all others."""
    donors = find_donors(plan.config.store_uri, plan.root, plan.spec, plan.manifest)
    if not donors:
        return {}
    calls = [(plan.root, plan.spec, shard) for shard in plan.shards]
    found = run_tasks(inherit_units, calls, donors=donors, finished=finished_units(plan.root))
    known = {unit: cells for remaining in found for unit, cells in remaining.items()}
    num_known = sum(map(len, known.values()))
    num_run = sum(len(unit.coordinates) for unit in plan.units if unit.number in known) - num_known
    print(f"{plan.num_clips - num_run} of {plan.num_clips} clips need not be run", flush=True)
    return known


def unit_blocks(plan: CachePlan, units: Iterable[Unit], known: Known) -> Iterator[pa.Table]:
    """Yield the blocks that units start from, without the cells that are known."""
    for unit in units:
        yield unit_block(unit, plan.records(unit.rows), known.get(unit.number, frozenset()))


def unit_steps(plan: CachePlan, *, inheriting: bool) -> tuple[Step, Step, Step]:
    """Return the steps of a unit: decode, teacher, journal."""
    config, pools = plan.config, ClusterPools(plan.config)
    return (
        Step(UnitDecoder, (config,), pools.num_decoders),
        Step(TeacherActor, (config, plan.spec), pools.num_teachers, **network_resources(config)),
        Step(journal_unit, (plan.root, plan.spec, inheriting), num_cpus=JOURNAL_CPU_SHARE),
    )


class Meter:
    """Counts and rates of a run, for the progress line and for MLflow."""

    def __init__(self, num_teachers: Callable[[], int]) -> None:
        self._started = self._added = time.monotonic()
        self._num_teachers, self._all_teachers_seconds = num_teachers, 0.0
        self._first_seen, self._num_first = 0.0, 0
        self._totals: Counter[str] = Counter()
        self._redo_max_difference = 0.0

    def add(self, summary: dict[str, Any]) -> None:
        """Count a finished unit."""
        before, self._added = self._added, time.monotonic()
        self._all_teachers_seconds += (self._added - before) * self._num_teachers()
        if not self._totals:
            self._first_seen, self._num_first = time.monotonic(), summary["num_cells"]
        for name in ("num_cells", "num_good", "num_labelled", "num_hits", "teacher_seconds"):
            self._totals[name] += summary[name]
        difference = summary["redo_difference"]
        self._redo_max_difference = max(self._redo_max_difference, difference)

    @property
    def metrics(self) -> dict[str, float]:
        """Values by their MLflow names; the rate counts from the first unit that came in."""
        total = self._totals
        streaming = max(time.monotonic() - self._first_seen, 1e-9)  # the first unit may be the last
        return {
            "cache/clips": total["num_cells"],
            "cache/start_seconds": self._first_seen - self._started,
            "cache/clips_per_second": (total["num_cells"] - self._num_first) / streaming,
            "cache/teacher_share": total["teacher_seconds"] / self._all_teachers_seconds,
            "cache/failed_clips": total["num_cells"] - total["num_good"],
            "cache/redo_max_difference": self._redo_max_difference,
            "cache/top1": total["num_hits"] / max(total["num_labelled"], 1),
        }


def _judge_teacher(plan: CachePlan) -> None:
    """Measure the teacher on val, from the journal, and refuse one that is too bad.

    The units of val run first, so a bad teacher is refused before the rest is paid for. The figure
    is the one that every student is compared with.
    """
    logits, labels = [], []
    for unit in filter(plan.evaluates, plan.units):
        cells = read_fragment(plan.root, plan.spec, unit)
        splits = np.array([plan.manifest.records[row].split for row in cells.row])
        judged = (cells.status == Status.GOOD) & (splits == "val")
        logits.append(cells.logits[judged])
        labels += [plan.manifest.records[row].label_number for row in cells.row[judged]]
    if not labels:
        print("there is no video of val: the teacher's top-1 is not known")
        return
    top1 = float((np.concatenate(logits).argmax(axis=1) == np.array(labels)).mean())
    print(f"\nteacher: top-1 {top1:.4f} on {len(labels)} videos of val", flush=True)
    minimum = plan.config.teacher.min_top1
    if minimum is not None and top1 < minimum:
        raise WeightsMismatch(
            f"the teacher's top-1 on val is {top1:.4f}, under teacher.min_top1 {minimum}; nothing "
            "is sealed.\n  Check weights, class order and preprocessing, or lower the minimum."
        )


def _seal_store(plan: CachePlan, run_id: str | None) -> None:
    """Gather every shard in a task of its own, then seal."""
    _check_failures(plan)
    calls = [(plan.root, plan.spec, shard, plan.records(shard.rows)) for shard in plan.shards]
    entries = [entry for gathered in run_tasks(gather_shard, calls) for entry in gathered]
    provenance = seal_provenance(plan.config, run_id) | {"numerics": numerics_of(plan.config)}
    seal_logits(plan.root, plan.spec, entries, provenance=provenance)


def _check_failures(plan: CachePlan) -> None:
    """Stop before the seal if too many videos have no logits."""
    status_of_row, undecoded = dict[int, int](), set[tuple[int, int]]()
    for unit in plan.units:
        cells = read_fragment(plan.root, plan.spec, unit)
        bad = chosen(cells, cells.status != Status.GOOD)
        status_of_row.update(zip(bad.row.tolist(), bad.status.tolist(), strict=True))
        undecoded.update(chosen(bad, bad.status != Status.BAD_LOGITS).coordinates)
    records = plan.manifest.records
    _say_unmixed(plan, undecoded)
    no_logits = [
        replace(records[row], status=status, reason=records[row].reason or "has no logits")
        for row, status in sorted(status_of_row.items())
    ]
    show_bad(no_logits, join_uri(plan.config.artefacts, "no_logits.csv"))
    check_failed_fraction(len(no_logits), records, plan.config.dataset)


def _say_unmixed(plan: CachePlan, undecoded: Set[tuple[int, int]]) -> None:
    """Say how many clips stayed unmixed because their partner could not be decoded."""
    if not plan.spec.mixes:
        return
    records = dict(enumerate(plan.manifest.records))
    groups = MixGroups(plan.config.views, records, store_groups(plan.config.views, records))
    partners = {
        (groups.partner(row, view_index), view_index)
        for row, view_index in undecoded
        if row in groups.group_of
    }
    if count := sum(row is not None for row, _ in partners - undecoded):
        print(f"{count} clips are not mixed: their partners could not be decoded", flush=True)


def _open_run(plan: CachePlan) -> TrackedRun:
    teacher = plan.config.teacher
    return open_run(
        plan.config,
        stage=STAGE,
        name=f"cache-{teacher.title}-{plan.spec.fingerprint[:8]}",
        key=plan.spec.fingerprint,
        sections=("teacher", "views", "clip", "store"),
        tags={
            "mlflow.runColor": COLOURS["teacher"],
            "cache.key": plan.spec.fingerprint,
            "cache.uri": plan.root,
            "teacher.sha256": plan.spec.teacher_digest,
        },
    )


def _report(plan: CachePlan, store: LogitStore, run: TrackedRun) -> None:
    num_bytes = sum(file.num_bytes for file in store.seal.files)
    run.log_summary({"cache/bytes": num_bytes, "cache/bytes_per_clip": num_bytes / plan.num_clips})
    run.log_dataset("logit-store", digest=store.root_digest, uri=plan.root, context="cache")
    print(f"sealed: {plan.root}\n  root digest {store.root_digest}\n  {num_bytes:,} bytes")
    print(run.link)
