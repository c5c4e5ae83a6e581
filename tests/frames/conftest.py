"""A small frame store of real videos, the same in every test of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import Manifest, VideoRecord
from pipeline.errors import Status
from pipeline.frames import store
from pipeline.frames.prepared import PreparedVideo, prepare_video
from pipeline.frames.store import FrameSpec, plan_frame_store
from pipeline.frames.video import probe_video
from pipeline.storage.sealed.store import Seal, open_for_writing

LIMITS = VideoLimits()
NUM_FRAMES = (40, 9, 24, 0, 33)  # the fourth is a bad video


@dataclass(frozen=True)
class Example:
    """Five videos, two a unit and two units a file, and an experiment on them."""

    videos: Manifest

    def config(self, **frames: Any) -> ExperimentConfig:
        dataset = {"name": "toy", "root": "/videos", "layout": "folders", "num_classes": 2}
        section = {"num_candidates": 12, "short_side": 32, "videos_per_unit": 2}
        return ExperimentConfig.model_validate(
            {
                "artefacts": "/artefacts",
                "dataset": dataset,
                "frames": section | {"units_per_file": 2} | frames,
            }
        )

    @property
    def spec(self) -> FrameSpec:
        return plan_frame_store(self.config(), self.videos)

    def prepared(self, row: int) -> PreparedVideo:
        record = self.videos.records[row]
        if not record.good:
            return PreparedVideo(record)
        return prepare_video(record, LIMITS, frames=self.config().frames)

    def write_unit(self, root: str, unit: int) -> None:
        videos = [self.prepared(row) for row in self.spec.unit_rows(unit)]
        store.write_fragment(root, self.spec, unit, videos)

    def seal(self, root: str) -> Seal:
        files = [store.gather_file(root, self.spec, n) for n in range(self.spec.num_files)]
        return store.seal_frames(root, self.spec, files, videos=self.videos, provenance={})

    def write_store(self, root: str, *, backwards: bool = False) -> Seal:
        open_for_writing(root, self.spec)
        units = range(self.spec.num_units)
        for unit in reversed(units) if backwards else units:
            self.write_unit(root, unit)
        return self.seal(root)


@pytest.fixture(scope="package")
def example(
    tmp_path_factory: pytest.TempPathFactory,
    make_video: Callable[..., Path],
    make_record: Callable[[Path], VideoRecord],
) -> Example:
    folder = tmp_path_factory.mktemp("videos")
    records = []
    for place, num_frames in enumerate(NUM_FRAMES):
        path = folder / f"v{place}.avi"
        if num_frames:
            record = probe_video(make_record(make_video(path, num_frames, 96, 64)), LIMITS)
        else:
            record = replace(make_record(path), status=Status.NOT_FOUND, reason="not there")
        records.append(replace(record, label=place % 2))
    return Example(Manifest("toy", ("jump", "run"), tuple(records)))  # rows in that order


@pytest.fixture(scope="package")
def sealed_root(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sealed frame store. Tests leave it as they found it."""
    root = tmp_path_factory.mktemp("sealed") / "frames"
    example.write_store(str(root))
    return root
