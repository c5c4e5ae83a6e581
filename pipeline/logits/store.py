"""Opening and reading the logit store, and making it in stage one.

The seal says which files there are; no folder is listed, and no byte is used whose sha256 is not
the sealed one. Every function that makes a store may be called again after a kill, and by several
jobs at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, StoreIncomplete
from pipeline.logits.cells import Grid, cell_shapes, joined, scatter
from pipeline.logits.journal import read_fragment
from pipeline.logits.shards import decode_shard, encode_shard, shard_names, shared_files
from pipeline.logits.spec import Shard, StoreSpec, decode_spec
from pipeline.storage.sealed.store import (
    FileEntry,
    Seal,
    SealedStore,
    open_sealed,
    publish,
    seal_files,
)

JOB = "jobs/cache_teacher.py"


@dataclass(frozen=True)
class LogitStore(SealedStore[StoreSpec]):
    """A sealed store; ``spec`` holds its identity, classes, views and sizes."""

    def read_shard(self, number: int) -> Grid:
        """Read the grid of a shard's rows; StoreCorrupt if a file is missing or different."""
        files = {name: self.read(name) for name in shard_names(self.spec, number)}
        return decode_shard(self.spec, number, self._shared_files | files)

    def read_rows(self, rows: range) -> Grid:
        """Read the grid of consecutive rows, whichever shards they lie in."""
        size = self.spec.rows_per_shard
        numbers = range(rows.start // size, -(-rows.stop // size))
        grids = [self.read_shard(number) for number in numbers]
        start = rows.start - numbers.start * size
        part, names = slice(start, start + len(rows)), [*cell_shapes(self.spec), "label"]
        sample_id = tuple(chain.from_iterable(grid.sample_id for grid in grids))
        arrays = {name: np.concatenate([getattr(grid, name) for grid in grids]) for name in names}
        return Grid(**{k: v[part] for k, v in arrays.items()}, sample_id=sample_id[part])

    def read_all(self) -> Grid:
        return self.read_rows(range(self.spec.num_rows))

    def to_pandas(self) -> Any:
        """Return the good cells: by sample_id, label and view_index, a column for each class."""
        import pandas as pd

        grid, names = self.read_all(), ["sample_id", "label", "view_index"]
        rows, slots = np.nonzero(grid.status == Status.GOOD)
        views = np.array(self.spec.view_indices)[slots]
        keys = [np.array(grid.sample_id)[rows], grid.label[rows], views]
        index = pd.MultiIndex.from_arrays(keys, names=names)
        logits = grid.logits[rows, slots].astype(np.float32)  # pandas cannot print float16
        return pd.DataFrame(logits, index, self.spec.class_names)

    def to_xarray(self) -> Any:
        """Return all cells with named axes; ``status`` says which are good. Needs xarray."""
        import xarray as xr

        grid, cell = self.read_all(), ("sample_id", "view_index")
        return xr.Dataset(
            {"logits": ((*cell, "class_name"), grid.logits), "status": (cell, grid.status)},
            {
                "sample_id": list(grid.sample_id),
                "label": ("sample_id", grid.label),
                "view_index": list(self.spec.view_indices),
                "class_name": list(self.spec.class_names),
            },
        )

    @cached_property
    def _shared_files(self) -> dict[str, bytes]:
        return {name: self.read(name) for name in shared_files(self.spec)}


def open_store(root: str) -> LogitStore:
    """Open a sealed store.

    StoreIncomplete if there is no store, or it is not sealed; StoreCorrupt if it is damaged.
    """
    return LogitStore(root, *open_sealed(root, decode_spec, kind="logit store", job=JOB))


def gather_shard(
    root: str, spec: StoreSpec, shard: Shard, records: Sequence[VideoRecord]
) -> list[FileEntry]:
    """Write one whole shard from the fragments of its units; ``records`` are of its rows only.

    StoreIncomplete if units are not in the journal; StoreCorrupt if a fragment is damaged, or a
    file of the shard is there and differs.
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
        label=[record.label_number for record in records],
        sample_id=[record.sample_id for record in records],
    )
    files = encode_shard(spec, shard.number, grid)
    return [publish(root, name, content) for name, content in files.items()]


def seal_logits(
    root: str, spec: StoreSpec, entries: Iterable[FileEntry], *, provenance: Mapping[str, Any]
) -> Seal:
    """Seal a store whose shards are all gathered.

    ``entries`` are what ``gather_shard`` returned, of all shards in any order. ``provenance`` is
    recorded, and part of no digest. StoreIncomplete if files are not among the entries;
    StoreCorrupt if the store is sealed already, with other files.
    """
    entries = list(entries)
    wanted = {name for number in range(spec.num_shards) for name in shard_names(spec, number)}
    if missing := sorted(wanted - {entry.name for entry in entries}):
        raise StoreIncomplete(
            f"{root} cannot be sealed: {len(missing)} of {len(wanted)} files are not written, "
            f"{', '.join(missing[:5])} the first of them; run {JOB}"
        )
    return seal_files(root, spec, entries, shared=shared_files(spec), provenance=provenance)
