"""The two sealed formats behind one pure interface: a shard's grid to named bytes, and back.

Backends never touch storage. The bytes of a shard are made in memory and published whole, so
nothing half-written can be found, and a read decodes only bytes whose sha256 was right. That
matters for Zarr above all, which reads a missing object as fill values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pipeline.logits import parquet_shards, zarr_shards
from pipeline.logits.cells import Grid
from pipeline.logits.layout import StoreSpec


class Backend(Protocol):
    """What a module must offer to be a format. All names are below the root of the store."""

    def shared_files(self, spec: StoreSpec) -> dict[str, bytes]:
        """Return the files that belong to no shard."""

    def shard_names(self, number: int) -> list[str]:
        """Return the names of a shard's files."""

    def encode_shard(self, spec: StoreSpec, number: int, grid: Grid) -> dict[str, bytes]:
        """Encode exactly one whole shard; ValueError for anything else."""

    def decode_shard(self, spec: StoreSpec, number: int, files: Mapping[str, bytes]) -> Grid:
        """Decode a shard from its files and the shared ones, all verified."""


def backend_of(spec: StoreSpec) -> Backend:
    """Return the backend of a store's format."""
    return zarr_shards if spec.format == "zarr" else parquet_shards
