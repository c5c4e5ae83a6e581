"""A small example store, the same in every test of this folder."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import Manifest, VideoRecord, build_manifest
from pipeline.errors import Status
from pipeline.logits import journal, store
from pipeline.logits.cells import Cells, Grid, centre
from pipeline.logits.spec import Shard, StoreSpec, Unit, plan_shards, plan_store, plan_units
from pipeline.storage.sealed.seal import FileEntry, Seal
from pipeline.storage.sealed.store import open_for_writing

K, T, V = 5, 2, 3
NUM_VIDEOS = 29  # 24 of train, 5 of val; three rows a unit, twelve a shard
BAD_VIDEO = 7


@dataclass(frozen=True)
class Example:
    """An experiment, and the logits that its imaginary teacher gives."""

    format: str

    def config(self, **sections: Any) -> ExperimentConfig:
        return ExperimentConfig.model_validate(
            {
                "artefacts": "/artefacts",
                "dataset": {
                    "name": "toy",
                    "root": "/videos",
                    "layout": "folders",
                    "num_classes": K,
                },
                "clip": {"num_frames": T},
                "views": {"num_views": V},
                "store": {"format": self.format, "clips_per_unit": 10, "units_per_shard": 4},
            }
            | sections
        )

    @cached_property
    def manifest(self) -> Manifest:
        return build_manifest(
            "toy",
            [f"class {label}" for label in range(K)],
            [
                VideoRecord(
                    sample_id=f"v_{number:03d}_ü",
                    uri=f"{number}.avi",
                    label=number % K,
                    split="train" if number < 24 else "val",
                    status=Status.UNREADABLE if number == BAD_VIDEO else Status.GOOD,
                )
                for number in range(NUM_VIDEOS)
            ],
        )

    def spec_of(self, **sections: Any) -> StoreSpec:
        config = self.config(**sections)
        return plan_store(config, manifest=self.manifest, teacher_digest="ab" * 32)

    @cached_property
    def spec(self) -> StoreSpec:
        return self.spec_of()

    @cached_property
    def units(self) -> list[Unit]:
        return plan_units(self.spec, self.manifest.records)

    @cached_property
    def shards(self) -> list[Shard]:
        return plan_shards(self.spec, self.units)

    def compute(self, unit: Unit) -> Cells:
        """Stand in for decoder and teacher: any pure function of the unit will do."""
        rows, views = np.array(unit.coordinates).T
        draws = np.random.default_rng(unit.number)
        status = np.array([self.manifest.records[row].status for row in rows], np.uint8)
        good = status == Status.GOOD
        logits, offset = centre(draws.normal(0, 4, (len(rows), K)).astype(np.float32))
        return Cells(
            row=rows.astype(np.int32),
            view_index=views.astype(np.int16),
            status=status,
            logits=logits * good[:, None],
            logit_offset=offset * good,
            view_digest=draws.integers(0, 2**64, len(rows), np.uint64),
            frame_crc=draws.integers(0, 2**32, (len(rows), T), np.uint32),
        )

    def write_units(self, root: str, units: list[Unit]) -> None:
        open_for_writing(root, self.spec)
        for unit in units:
            journal.write_fragment(root, self.spec, unit, self.compute(unit))

    def gather(self, root: str, shard: Shard) -> list[FileEntry]:
        records = self.manifest.records[shard.rows.start : shard.rows.stop]
        return store.gather_shard(root, self.spec, shard, records)

    def write_store(self, root: str, *, backwards: bool = False) -> Seal:
        step = -1 if backwards else 1
        self.write_units(root, self.units[::step])
        entries = [entry for shard in self.shards[::step] for entry in self.gather(root, shard)]
        return store.seal_logits(root, self.spec, entries, provenance={"backwards": backwards})


def same_grids(first: Grid, second: Grid) -> bool:
    return first.sample_id == second.sample_id and all(
        np.array_equal(value, getattr(second, name)) and value.dtype == getattr(second, name).dtype
        for name, value in vars(first).items()
        if name != "sample_id"
    )


@pytest.fixture(params=["zarr", "parquet"])
def example(request: pytest.FixtureRequest) -> Example:
    return Example(request.param)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    uri = f"memory://{uuid.uuid4().hex}"
    yield uri
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.rm(path, recursive=True)


@pytest.fixture
def local_root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture(scope="session", params=["zarr", "parquet"])
def sealed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Example, str]:
    """A sealed store that tests leave as they found it."""
    example, root = Example(request.param), str(tmp_path_factory.mktemp("sealed") / "store")
    example.write_store(root)
    return example, root


@pytest.fixture(scope="session")
def parquet_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, str]:
    """A sealed store, for what does not depend on its format."""
    example, root = Example("parquet"), str(tmp_path_factory.mktemp("parquet") / "store")
    example.write_store(root)
    return example, root


@pytest.fixture
def grids_equal() -> Any:
    return same_grids
