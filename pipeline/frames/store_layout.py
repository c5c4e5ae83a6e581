"""What a frame store is made from, and how it is cut: rows into units, units into files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pipeline.config.load import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.logits.identity import fingerprint

SCHEMA_VERSION = 1  # of the frame store; raise it when a file or the choice of frames changes
MANIFEST_NAME = "manifest.parquet"


@dataclass(frozen=True)
class FrameSpec:
    """All that a task must know of a frame store."""

    identity: Mapping[str, Any]
    num_rows: int
    videos_per_unit: int
    units_per_file: int

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the identity."""
        return fingerprint(self.identity)

    @property
    def layout(self) -> dict[str, Any]:
        """Everything but the identity, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "identity"}

    @property
    def num_units(self) -> int:
        """Units of the whole store."""
        return -(-self.num_rows // self.videos_per_unit)

    @property
    def num_files(self) -> int:
        """Files of frames of the whole store."""
        return -(-self.num_units // self.units_per_file)

    def unit_rows(self, unit: int) -> range:
        """Return the rows of a unit; the last one may be shorter."""
        first = unit * self.videos_per_unit
        return range(first, min(first + self.videos_per_unit, self.num_rows))

    def file_units(self, number: int) -> range:
        """Return the units of a file; the last one may hold fewer."""
        first = number * self.units_per_file
        return range(first, min(first + self.units_per_file, self.num_units))


def plan_frame_store(config: ExperimentConfig, videos: Manifest) -> FrameSpec:
    """Plan the frame store of an experiment."""
    return FrameSpec(
        identity=frames_identity(config, videos),
        num_rows=len(videos.records),
        videos_per_unit=config.frames.videos_per_unit,
        units_per_file=config.frames.units_per_file,
    )


def frames_identity(config: ExperimentConfig, videos: Manifest) -> dict[str, Any]:
    """Collect everything that decides a prepared frame, as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": {"manifest_digest": videos.digest},
        "frames": config.frames.content,
    }


def file_name(number: int) -> str:
    """Return the name of a file of frames, below the root of the store."""
    return f"frames-{number:05d}.arrow"
