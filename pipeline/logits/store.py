"""The logit store: opened, read and, by stage one, made.

The seal says which files there are; no folder is listed, and no byte is used whose sha256 is not
the sealed one. Each function that makes a store may be called again after any end, and by several
jobs at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np

from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import StoreIncomplete
from pipeline.logits import parquet_shards, zarr_shards
from pipeline.logits.cells import Grid, cell_shapes, joined, scatter
from pipeline.logits.journal import read_fragment
from pipeline.logits.spec import Shard, StoreSpec, decode_spec
from pipeline.storage.sealed.seal import FileEntry, Seal, publish
from pipeline.storage.sealed.store import SealedStore, open_sealed, seal_files

JOB = "jobs/cache_teacher.py"


@dataclass(frozen=True)
class LogitStore(SealedStore[StoreSpec]):
    """A sealed store; ``spec`` holds its identity, classes, views and sizes."""

    def read_shard(self, number: int) -> Grid:
        """Read the grid of a shard's rows.

        Raises:
            StoreCorrupt: if a file of it is missing or different.
        """
        backend = backend_of(self.spec)
        files = {name: self.read(name) for name in backend.shard_names(number)}
        return backend.decode_shard(self.spec, number, self._shared_files | files)

    def read_shards(self) -> Iterator[tuple[range, Grid]]:
        """Read the store shard by shard, each with its rows."""
        for number in range(self.spec.num_shards):
            yield self.spec.shard_rows(number), self.read_shard(number)

    def read_all(self) -> Grid:
        grids = [grid for _, grid in self.read_shards()]
        names = [*cell_shapes(self.spec), "label"]
        return Grid(
            **{name: np.concatenate([getattr(grid, name) for grid in grids]) for name in names},
            sample_id=tuple(chain.from_iterable(grid.sample_id for grid in grids)),
        )

    @cached_property
    def _shared_files(self) -> dict[str, bytes]:
        return {name: self.read(name) for name in backend_of(self.spec).shared_files(self.spec)}


def open_store(root: str) -> LogitStore:
    """Open a sealed store.

    Raises:
        StoreIncomplete: if there is no store, or it is not sealed.
        StoreCorrupt: if its seal or identity is damaged.
    """
    return LogitStore(root, *open_sealed(root, decode_spec, kind="logit store", job=JOB))


def gather_shard(
    root: str, spec: StoreSpec, shard: Shard, records: Sequence[VideoRecord]
) -> list[FileEntry]:
    """Write one whole shard from the fragments of its units; ``records`` are of its rows only.

    Raises:
        StoreIncomplete: if units are not in the journal.
        StoreCorrupt: if a fragment is damaged, or a file of the shard is there and differs.
    """
    found, missing = [], []
    for unit in shard.units:
        try:
            found.append(read_fragment(root, spec, unit))
        except FileNotFoundError:
            missing.append(unit.number)
    if missing:
        raise StoreIncomplete(f"{root}: shard {shard.number} lacks the units {missing}; run {JOB}")
    grid = scatter(
        joined(found, spec),
        shard.rows,
        spec,
        label=[record.label for record in records],
        sample_id=[record.sample_id for record in records],
    )
    files = backend_of(spec).encode_shard(spec, shard.number, grid)
    return [publish(root, name, content) for name, content in files.items()]


def seal_logits(
    root: str, spec: StoreSpec, entries: Iterable[FileEntry], *, provenance: Mapping[str, Any]
) -> Seal:
    """Seal a store whose shards are all gathered.

    ``entries`` are what ``gather_shard`` returned, of all shards in any order. ``provenance`` is
    recorded, and part of no digest.

    Raises:
        StoreIncomplete: if files are not among the entries.
        StoreCorrupt: if the store is sealed already, with other files.
    """
    entries = list(entries)
    backend = backend_of(spec)
    wanted = {name for number in range(spec.num_shards) for name in backend.shard_names(number)}
    if missing := sorted(wanted - {entry.name for entry in entries}):
        raise StoreIncomplete(
            f"{root} cannot be sealed: {len(missing)} of {len(wanted)} files are not written, "
            f"{', '.join(missing[:5])} the first of them; run {JOB}"
        )
    shared = backend.shared_files(spec)
    return seal_files(root, spec, entries, shared=shared, provenance=provenance)


class Backend(Protocol):
    """A format of sealed logits, as a module of pure functions: a shard's grid to bytes, and back.

    Backends never touch storage: the bytes of a shard are made in memory and published whole, and a
    read decodes only bytes whose sha256 was right. That matters for Zarr above all, which reads a
    missing object as fill values. All names are below the root of the store.
    """

    def shared_files(self, spec: StoreSpec) -> dict[str, bytes]:
        """Return the files that belong to no shard."""

    def shard_names(self, number: int) -> list[str]:
        """Return the names of a shard's files."""

    def encode_shard(self, spec: StoreSpec, number: int, grid: Grid) -> dict[str, bytes]:
        """Encode exactly one whole shard; ValueError for anything else."""

    def decode_shard(self, spec: StoreSpec, number: int, files: Mapping[str, bytes]) -> Grid:
        """Decode a shard from its files and the shared ones, all verified."""


def backend_of(spec: StoreSpec) -> Backend:
    return zarr_shards if spec.format == "zarr" else parquet_shards
