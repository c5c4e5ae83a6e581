"""What may be removed below the root of a store, and why no writer misses it.

Every file that a store will ever hold has a name that follows from its identity alone
(``own_names``). So garbage is told without asking what is finished or sealed, and a writer that
starts, goes on or seals in the meantime changes no verdict:

- Under a name of its own a file stays, in a store that is sealed as in one that was given up: its
  journal is paid for, and the same command goes on from it.
- Other files in our folders are orphans, and temporary files are those of writers that were
  killed, once they are older than any write takes. A live temporary file is seconds old. Were the
  clocks so far apart that one is removed all the same, its writer fails to give it its name, and
  the unit is run again: nothing is ever named that is not whole.
- What we could not have written stays. The doctor names it.
- Journals of sealed stores go only if that is asked for. No reader needs them; but the doctor
  compares shards with them, and a second writer of the same store may be at work on them, which
  therefore has the same time to end, counted from the seal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

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
from pipeline.sealed.identity import IDENTITY_NAME
from pipeline.sealed.journal import JOURNAL_NAME, fragment_name
from pipeline.sealed.seal import SEAL_NAME
from pipeline.storage import StoredFile, is_temporary, list_files

OUR_FOLDERS = (f"{JOURNAL_NAME}/", f"{zarr_backend.FOLDER}/", f"{parquet_backend.FOLDER}/")

Kind = Literal["temporary file", "orphan", "journal", "mirror", "unfinished upload"]


@dataclass(frozen=True)
class Garbage:
    """Something that may be removed."""

    kind: Kind
    uri: str
    num_bytes: int
    upload_id: str = ""
    """Of an unfinished upload; a file may have several."""


def own_names(spec: StoreSpec) -> set[str]:
    """Return every name that a file of a store may have, below its root."""
    backend = backend_of(spec)
    shards = (name for number in range(spec.num_shards) for name in backend.shard_names(number))
    fixed = {IDENTITY_NAME, VIDEOS_NAME, SEAL_NAME}
    return {*fixed, *backend.shared_files(spec), *shards} | journal_names(spec)


def journal_names(spec: StoreSpec) -> set[str]:
    """Return every name that a file of a store's journal may have."""
    units = range(spec.num_units)
    return {name(unit) for unit in units for name in (fragment_name, inherited_name)}


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
        found
        for home in list_generations(root)
        for found in _of_generation(home, find_spec(home), written_before, journals)
    ]


def _of_generation(
    home: str, spec: StoreSpec | None, written_before: float, journals: bool
) -> Iterator[Garbage]:
    """Judge the files of a generation; without a spec it was given up before its first unit."""
    files = [file for file in list_files(home) if not file.name.startswith(f"{GENERATIONS}/")]
    own = set() if spec is None else own_names(spec)
    seal_age = next((file.modified for file in files if file.name == SEAL_NAME), written_before)
    spent = journal_names(spec) if spec and journals and seal_age < written_before else set()
    for file in files:
        kind = _kind(file, own, spent)
        if kind is not None and file.modified < written_before:
            yield Garbage(kind, f"{home}/{file.name}", file.num_bytes)


def _kind(file: StoredFile, own: set[str], spent: set[str]) -> Kind | None:
    if is_temporary(file.name):
        return "temporary file"
    if file.name in own:
        return "journal" if file.name in spent else None
    return "orphan" if file.name.startswith(OUR_FOLDERS) else None
