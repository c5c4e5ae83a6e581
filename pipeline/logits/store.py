"""Reading a sealed store: nothing is stated, everything is checked.

The seal says which files there are; no folder is listed, and no byte is used whose sha256 is not
the sealed one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from pipeline.errors import StoreCorrupt, StoreIncomplete
from pipeline.logits.backends import backend_of
from pipeline.logits.cells import Grid, cell_shapes
from pipeline.logits.identity_file import decode_spec
from pipeline.logits.layout import StoreSpec
from pipeline.storage.files import exists, join_uri
from pipeline.storage.sealed.files import read_verified
from pipeline.storage.sealed.identity import IDENTITY_NAME, read_identity
from pipeline.storage.sealed.journal import finished_units
from pipeline.storage.sealed.seal import Seal, read_seal, read_sealed


@dataclass(frozen=True)
class LogitStore:
    """A sealed store; ``spec`` holds its identity, classes, views and sizes."""

    root: str
    spec: StoreSpec
    seal: Seal

    @property
    def root_digest(self) -> str:
        """The name of exactly these logits."""
        return self.seal.root_digest

    def verify(self) -> None:
        """Read every file and compare it with the seal.

        Raises:
            StoreCorrupt: for the first file that is missing or different.

        """
        for entry in self.seal.files:
            read_verified(self.root, entry)

    def read_shard(self, number: int) -> Grid:
        """Read the grid of a shard's rows.

        Raises:
            StoreCorrupt: if a file of it is missing or different.

        """
        backend = backend_of(self.spec)
        files = {name: self._read(name) for name in backend.shard_names(number)}
        return backend.decode_shard(self.spec, number, self._shared_files | files)

    def read_shards(self) -> Iterator[tuple[range, Grid]]:
        """Read the store shard by shard, each with its rows."""
        for number in range(self.spec.num_shards):
            yield self.spec.shard_rows(number), self.read_shard(number)

    def read_all(self) -> Grid:
        """Read the grid of all rows."""
        grids = [grid for _, grid in self.read_shards()]
        names = [*cell_shapes(self.spec), "label"]
        return Grid(
            **{name: np.concatenate([getattr(grid, name) for grid in grids]) for name in names},
            sample_id=tuple(chain.from_iterable(grid.sample_id for grid in grids)),
        )

    @cached_property
    def _shared_files(self) -> dict[str, bytes]:
        return {name: self._read(name) for name in backend_of(self.spec).shared_files(self.spec)}

    def _read(self, name: str) -> bytes:
        return read_sealed(self.root, self.seal, name)


def open_store(root: str) -> LogitStore:
    """Open a sealed store.

    Raises:
        StoreIncomplete: if there is no store, or it is not sealed.
        StoreCorrupt: if its seal or identity is damaged.

    """
    uri = join_uri(root, IDENTITY_NAME)
    try:
        seal = read_seal(root)
    except FileNotFoundError as error:
        raise StoreIncomplete(_progress(root)) from error
    spec = decode_spec(read_sealed(root, seal, IDENTITY_NAME), uri=uri)
    if spec.fingerprint != seal.fingerprint:
        raise StoreCorrupt(uri, expected=seal.fingerprint, found=spec.fingerprint)
    return LogitStore(root, spec, seal)


def _progress(root: str) -> str:
    """Say how far a store is that has no seal."""
    uri = join_uri(root, IDENTITY_NAME)
    if not exists(uri):
        return f"there is no logit store at {root}; run jobs/cache_teacher.py"
    spec = decode_spec(read_identity(root), uri=uri)
    return (
        f"{root} is not sealed: its journal holds {len(finished_units(root))} of "
        f"{spec.num_units} units; run jobs/cache_teacher.py"
    )
