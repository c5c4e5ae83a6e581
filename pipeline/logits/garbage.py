"""The garbage of a logit store, in all its generations."""

from __future__ import annotations

from pipeline.logits import parquet_shards, zarr_shards
from pipeline.logits.generations import (
    GENERATIONS,
    VIDEOS_NAME,
    find_spec,
    list_generations,
)
from pipeline.logits.journal import inherited_name
from pipeline.logits.layout import StoreSpec
from pipeline.logits.store import backend_of
from pipeline.storage.files import list_files
from pipeline.storage.sealed.garbage import Garbage, judge
from pipeline.storage.sealed.identity import IDENTITY_NAME
from pipeline.storage.sealed.journal import JOURNAL_NAME, fragment_name
from pipeline.storage.sealed.seal import SEAL_NAME

OUR_FOLDERS = (f"{JOURNAL_NAME}/", f"{zarr_shards.FOLDER}/", f"{parquet_shards.FOLDER}/")


def own_names(spec: StoreSpec) -> set[str]:
    """Return every name that a file of a store may have, below its root."""
    backend = backend_of(spec)
    shards = (name for number in range(spec.num_shards) for name in backend.shard_names(number))
    units = range(spec.num_units)
    journal = (name(unit) for unit in units for name in (fragment_name, inherited_name))
    fixed = (IDENTITY_NAME, VIDEOS_NAME, SEAL_NAME)
    return {*fixed, *backend.shared_files(spec), *shards, *journal}


def find_garbage(root: str, *, written_before: float, journals: bool = False) -> list[Garbage]:
    """List what may be removed of a store in all its generations; nothing, if there is none.

    Args:
        root: URI of the first generation.
        written_before: in seconds since 1970; younger files are not touched.
        journals: include the journals of generations that were sealed before that.

    Raises:
        FingerprintMismatch, StoreCorrupt: if it is one of another version, or damaged.

    """
    if find_spec(root) is None:
        return []  # the folder is not ours
    return [
        garbage
        for home in list_generations(root)
        for garbage in _of_generation(home, written_before=written_before, journals=journals)
    ]


def _of_generation(home: str, *, written_before: float, journals: bool) -> list[Garbage]:
    """Judge the files of a generation; without a spec it was given up before its first unit."""
    spec = find_spec(home)
    own = set() if spec is None else own_names(spec)
    files = [file for file in list_files(home) if not file.name.startswith(f"{GENERATIONS}/")]
    return judge(home, files, own, OUR_FOLDERS, written_before=written_before, journals=journals)
