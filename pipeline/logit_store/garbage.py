"""The garbage of a logit store, in all its generations."""

from __future__ import annotations

from pipeline.logit_store import parquet_backend, zarr_backend
from pipeline.logit_store.backends import backend_of
from pipeline.logit_store.generations import (
    GENERATIONS,
    VIDEOS_NAME,
    find_spec,
    list_generations,
    read_spec,
)
from pipeline.logit_store.journal import inherited_name
from pipeline.logit_store.layout import StoreSpec
from pipeline.sealed.garbage import Garbage, Names, judge
from pipeline.sealed.identity import IDENTITY_NAME
from pipeline.sealed.journal import JOURNAL_NAME, fragment_name
from pipeline.sealed.seal import SEAL_NAME
from pipeline.storage import list_files

OUR_FOLDERS = (f"{JOURNAL_NAME}/", f"{zarr_backend.FOLDER}/", f"{parquet_backend.FOLDER}/")


def names_of(spec: StoreSpec) -> Names:
    """Return every name that a file of a generation may have."""
    backend = backend_of(spec)
    shards = (name for number in range(spec.num_shards) for name in backend.shard_names(number))
    fixed = (IDENTITY_NAME, VIDEOS_NAME, SEAL_NAME)
    units = range(spec.num_units)
    return Names(
        content=frozenset((*fixed, *backend.shared_files(spec), *shards)),
        journal=frozenset(name(unit) for unit in units for name in (fragment_name, inherited_name)),
        folders=OUR_FOLDERS,
    )


def find_garbage(root: str, *, written_before: float, journals: bool = False) -> list[Garbage]:
    """List what may be removed of a store, in all its generations.

    Args:
        root: of the store.
        written_before: in seconds since 1970; what is younger is not touched.
        journals: include those of generations that were sealed before that.

    Raises:
        StoreIncomplete: if there is no store at ``root``.
        FingerprintMismatch, StoreCorrupt: if it is one of another version, or damaged.

    """
    read_spec(root)  # a folder that is not ours is none of our business
    return [
        garbage
        for home in list_generations(root)
        for garbage in _of_generation(home, written_before=written_before, journals=journals)
    ]


def _of_generation(home: str, *, written_before: float, journals: bool) -> list[Garbage]:
    """Judge the files of a generation; without a spec it was given up before its first unit."""
    spec = find_spec(home)
    names = Names(folders=OUR_FOLDERS) if spec is None else names_of(spec)
    files = [file for file in list_files(home) if not file.name.startswith(f"{GENERATIONS}/")]
    return list(judge(home, files, names, written_before=written_before, journals=journals))
