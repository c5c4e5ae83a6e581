"""The stage of prepared frames: candidates of every video, decoded once, shrunk, kept as JPEGs.

::

    plan      manifest -> fixed units; to do = units that the journal does not hold
    run       decode, shrink and encode (processes) -> journal (one fragment a unit)
    seal      one task a file, then the prepared manifest, then seal.json

With ``frames.source: prepared`` every later stage reads these frames instead of the videos.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import (
    Manifest,
    VideoRecord,
    check_failed_fraction,
    records_of,
    records_table,
)
from pipeline.errors import VideoDecodeError
from pipeline.frames.prepared import PreparedVideo
from pipeline.frames.source import read_videos
from pipeline.frames.store import (
    FrameSpec,
    FrameStore,
    gather_file,
    open_frame_store,
    plan_frame_store,
    seal_frames,
    write_fragment,
)
from pipeline.stages.cluster import ray_session, required_cpus
from pipeline.stages.index import show_bad
from pipeline.stages.pool_sizes import ClusterPools
from pipeline.stages.stream import MAX_WARNINGS, Step, run_tasks, stream
from pipeline.storage.files import join_uri
from pipeline.storage.sealed.store import finished_units, open_for_writing
from pipeline.tracking.progress import Progress
from pipeline.tracking.provenance import seal_provenance
from pipeline.tracking.run import TrackedRun, is_unfinished, open_run
from pipeline.views.decoder import DecodeProcess

STAGE = "prepare_frames"
SUMMARY_SCHEMA = pa.schema(
    [("unit", pa.int32()), ("num_videos", pa.int32()), ("failures", pa.list_(pa.string()))]
)


@dataclass(frozen=True)
class PreparePlan:
    """The frame store to make, and the manifest of its videos."""

    config: ExperimentConfig
    videos: Manifest
    spec: FrameSpec

    @property
    def root(self) -> str:
        return self.config.frames_uri

    def block(self, unit: int) -> pa.Table:
        """Return the records of a unit as the block that it starts from."""
        rows = self.spec.unit_rows(unit)
        table = records_table(self.videos.records[rows.start : rows.stop])
        return table.append_column("unit", pa.array([unit] * len(rows), pa.int32()))

    def as_text(self) -> str:
        frames, spec = self.config.frames, self.spec
        return (
            f"frame store  {self.root}\n"
            f"fingerprint  {spec.fingerprint}\n"
            f"videos       {spec.num_rows} in {spec.num_units} units and {spec.num_files} files\n"
            f"frames       up to {frames.num_candidates} a video, short side "
            f"{frames.short_side}, JPEG quality {frames.quality}"
        )


def plan_frames(config: ExperimentConfig) -> PreparePlan:
    """Read the manifest of the videos and plan the frame store; changes nothing."""
    videos = read_videos(config)
    return PreparePlan(config, videos, plan_frame_store(config, videos))


def run_prepare_frames(plan: PreparePlan, ray_address: str) -> FrameStore:
    """Run the units that the journal lacks, seal the frame store and return it.

    Raises:
        FingerprintMismatch: if there is another store at its place.
        TooManyFailedVideos: before sealing, if too many videos are bad.
    """
    config = plan.config
    print(plan.as_text(), flush=True)
    sealed = open_for_writing(plan.root, plan.spec) is not None
    if sealed:
        print("sealed, nothing to do")
        # A job may have been killed after the seal, before the end of its run in MLflow.
        if not is_unfinished(config, stage=STAGE, key=plan.spec.fingerprint):
            return open_frame_store(plan.root)
    num_cpus = required_cpus(config.cluster.num_decoders, 0)
    session = ray_session(config, ray_address, num_cpus=num_cpus)
    with nullcontext() if sealed else session, _open_run(plan) as run:
        if not sealed:
            _run_units(plan, run)
            _seal_store(plan, run.run_id)
        store = open_frame_store(plan.root)
        num_bytes = sum(file.num_bytes for file in store.seal.files)
        run.log_summary({"frames/bytes": num_bytes})
        run.log_dataset("frame-store", digest=store.root_digest, uri=store.root, context="frames")
        print(f"sealed: {store.root}\n  root digest {store.root_digest}\n  {num_bytes:,} bytes")
        print(run.link)
    return store


def _run_units(plan: PreparePlan, run: TrackedRun) -> None:
    finished = finished_units(plan.root)
    todo = [unit for unit in range(plan.spec.num_units) if unit not in finished]
    num_videos = num_bad = 0
    total = sum(len(plan.spec.unit_rows(unit)) for unit in todo)
    prepare = Step(UnitPreparer, (plan.config, plan.spec), ClusterPools(plan.config).all_decoders)
    with Progress("prepare", total, "videos") as progress:
        tables = stream([plan.block(unit) for unit in todo], prepare)
        for summary in (summary for table in tables for summary in table.to_pylist()):
            num_videos += summary["num_videos"]
            progress.advance(summary["num_videos"])
            for failure in summary["failures"][: max(0, MAX_WARNINGS - num_bad)]:
                progress.warn(f"bad video: {failure}")
            num_bad += len(summary["failures"])
            counts = {"frames/videos": num_videos, "frames/failed_videos": num_bad}
            run.log_metrics(num_videos, counts | {"frames/videos_per_second": progress.rate})


class UnitPreparer:
    """Actor that prepares the videos of a unit and journals them.

    The JPEGs go straight to the journal; the driver gets a short summary.
    """

    def __init__(self, config: ExperimentConfig, spec: FrameSpec) -> None:
        self._config, self._spec = config, spec
        self._decoder = DecodeProcess()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Prepare every video of a block; a bad one is journalled with its status and reason."""
        unit, records = block.column("unit")[0].as_py(), records_of(block)
        videos = [self._prepare(record) for record in records]
        write_fragment(self._config.frames_uri, self._spec, unit, videos)
        bad = [video.record for video in videos if not video.record.good]
        failures = [f"{record.sample_id}: {record.reason}" for record in bad]
        summary = {"unit": unit, "num_videos": len(videos), "failures": failures}
        return pa.Table.from_pylist([summary], schema=SUMMARY_SCHEMA)

    def _prepare(self, record: VideoRecord) -> PreparedVideo:
        if not record.good:
            return PreparedVideo(record)
        config = self._config
        try:
            return self._decoder.prepare(record, config.dataset.limits, frames=config.frames)
        except VideoDecodeError as error:
            return PreparedVideo(replace(record, status=error.status, reason=error.reason))


def _seal_store(plan: PreparePlan, run_id: str | None) -> None:
    """Gather every file in a task of its own, then seal; not if too many videos are bad."""
    files = [(plan.root, plan.spec, number) for number in range(plan.spec.num_files)]
    gathered = run_tasks(gather_file, files)
    records = [record for file in gathered for record in file.records]
    bad = [record for record in records if not record.good]
    show_bad(bad, join_uri(plan.config.artefacts, "no_frames.csv"))
    check_failed_fraction(len(bad), records, plan.config.dataset)
    provenance = seal_provenance(plan.config, run_id)
    seal_frames(plan.root, plan.spec, gathered, videos=plan.videos, provenance=provenance)


def _open_run(plan: PreparePlan) -> TrackedRun:
    return open_run(
        plan.config,
        stage=STAGE,
        name=f"frames-q{plan.config.frames.quality}-{plan.spec.fingerprint[:8]}",
        key=plan.spec.fingerprint,
        sections=("frames",),
        tags={"frames.key": plan.spec.fingerprint, "frames.uri": plan.root},
    )
