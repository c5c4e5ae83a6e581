"""Stage zero: the manifest of a data set, from its annotations and one probe of every video.

Probing decodes each video to its end (frame counts in containers are not to be trusted) and
hashes its bytes. Bad videos keep their row, with a status and a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import VideoLimits
from pipeline.dataset.annotations import Annotated, read_annotations
from pipeline.dataset.findings import bad_csv, bad_lines, index_report
from pipeline.dataset.manifest import (
    Manifest,
    VideoRecord,
    build_manifest,
    by_name,
    check_failed_fraction,
    located,
    records_of,
    records_table,
    write_manifest,
)
from pipeline.dataset.seen import seen_by_teacher
from pipeline.errors import DatasetError, Status, VideoDecodeError
from pipeline.stages.cluster import ray_session, required_cpus
from pipeline.stages.pool_sizes import ClusterPools
from pipeline.stages.stream import Step, stream
from pipeline.storage.files import exists, join_uri, write_bytes
from pipeline.tracking.progress import Progress
from pipeline.views.decoder import DecodeProcess

VIDEOS_PER_BLOCK = 16


@dataclass(frozen=True)
class IndexPlan:
    """The annotations as they were read, before a video is opened."""

    config: ExperimentConfig
    annotated: Annotated
    seen: list[str]

    @property
    def notes(self) -> list[str]:
        """Lines on how the annotations were read."""
        return [f"note: {note}" for note in self.annotated.notes]

    def as_text(self) -> str:
        """Return how the annotations were read, and what cannot be used already."""
        dataset, annotated = self.config.dataset, self.annotated
        manifest = Manifest(dataset.name, annotated.class_names, annotated.records)
        report = index_report(manifest, annotated.left_out, groups=dataset.groups)
        return "\n".join([*self.notes, *bad_lines(report.bad), report.title, *self.seen])


def plan_index(config: ExperimentConfig) -> IndexPlan:
    """Read the annotations and look for the videos.

    Raises:
        DatasetError: if the annotations make no data set, or a list of ``teacher.seen`` is wrong.
    """
    annotated = read_annotations(config.dataset)
    return IndexPlan(config, annotated, seen_by_teacher(config.teacher.seen, annotated.records))


def run_index_videos(plan: IndexPlan, ray_address: str) -> Manifest:
    """Probe every video and publish ``manifest.parquet``.

    Raises:
        DatasetError: if no video of train can be used.
        TooManyFailedVideos: after writing the manifest, if too many of its videos are bad.
    """
    config, dataset, annotated = plan.config, plan.config.dataset, plan.annotated
    for note in plan.notes:
        print(note, flush=True)
    exists(config.manifest_uri)  # raises if there is no such bucket, before hours of probing
    to_probe = [record for record in annotated.records if record.good]
    refused = [record for record in annotated.records if not record.good]
    with ray_session(config, ray_address, num_cpus=required_cpus(config.cluster.num_decoders, 0)):
        probed = list(_probed(located(to_probe, dataset.root), config))
    # Manifest URIs are relative to the root, so that a bucket can move.
    relative = {record.sample_id: record.uri for record in to_probe}
    records = [replace(record, uri=relative[record.sample_id]) for record in probed]
    manifest = build_manifest(dataset.name, annotated.class_names, [*records, *refused])
    report = index_report(manifest, annotated.left_out, groups=dataset.groups)
    bad_videos_uri = join_uri(config.artefacts, "bad_videos.csv")
    show_bad(report.bad, bad_videos_uri)
    print(report.as_text())
    for line in seen_by_teacher(config.teacher.seen, manifest.records):
        print(line)
    if not manifest.rows_of("train"):
        raise DatasetError(
            "no video of train can be used, so no manifest was written. The reasons are above, and"
            f" for all videos in {bad_videos_uri}. {annotated.doubt}"
        )
    write_manifest(manifest, config.manifest_uri, root=dataset.root)
    print(f"manifest: {config.manifest_uri}  (digest {manifest.digest[:16]})")
    num_bad = sum(not record.good for record in manifest.records)
    check_failed_fraction(num_bad, manifest.records, dataset)
    return manifest


def show_bad(bad: Sequence[VideoRecord], uri: str) -> None:
    """Print at most ten bad videos of each status, and list all of them in a CSV file."""
    bad = by_name(bad)
    write_bytes(uri, bad_csv(bad))
    if bad:
        print("\n".join([*bad_lines(bad), f"bad videos, all {len(bad)}: {uri}"]))


def _probed(records: Sequence[VideoRecord], config: ExperimentConfig) -> Iterator[VideoRecord]:
    """Yield the records, completed by what probing found, in any order."""
    starts = range(0, len(records), VIDEOS_PER_BLOCK)
    blocks = [records_table(records[start : start + VIDEOS_PER_BLOCK]) for start in starts]
    dataset = config.dataset
    probe = Step(
        VideoProber, (dataset.limits, dataset.min_frames), ClusterPools(config).all_decoders
    )
    with Progress("index", len(records), "videos") as progress:
        for table in stream(blocks, probe):
            progress.advance(table.num_rows)
            yield from records_of(table)


class VideoProber:
    """Actor that probes blocks of videos in a decoding process."""

    def __init__(self, limits: VideoLimits, min_frames: int) -> None:
        self._decoder, self._limits, self._min_frames = DecodeProcess(), limits, min_frames

    def __call__(self, block: pa.Table) -> pa.Table:
        """Probe every video of a block; a bad one comes back with its status and reason."""
        return records_table([self._probe(record) for record in records_of(block)])

    def _probe(self, record: VideoRecord) -> VideoRecord:
        try:
            probed = self._decoder.probe(record, self._limits)
        except VideoDecodeError as error:
            return replace(record, status=error.status, reason=error.reason, **error.facts)
        if probed.num_frames < self._min_frames:
            reason = f"has {probed.num_frames} frames; dataset.min_frames is {self._min_frames}"
            return replace(probed, status=Status.TOO_SHORT, reason=reason)
        return probed
