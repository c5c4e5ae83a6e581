"""What may be removed below the root of a store, and why no writer misses it.

Every file that a store will ever hold has a name that follows from its identity alone (``Names``).
So garbage is told without asking what is finished or sealed, and a writer that starts, goes on or
seals in the meantime changes no verdict:

- Under a name of its own a file stays, in a store that is sealed as in one that was given up: its
  journal is paid for, and the same command goes on from it.
- Other files in our folders are orphans, and temporary files are those of writers that were
  killed, once they are older than any write takes. A live temporary file is seconds old. Were the
  clocks so far apart that one is removed all the same, its writer fails to give it its name, and
  the unit is run again: nothing is ever named that is not whole.
- What we could not have written stays. The doctor names it.
- Journals of sealed stores go only if that is asked for. No reader needs them; but the doctor
  compares the shards of a logit store with them, and a second writer of the same store may be at
  work on them, which therefore has the same time to end, counted from the seal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.sealed.seal import SEAL_NAME
from pipeline.storage import StoredFile, is_temporary, join_uri

Kind = Literal["temporary file", "orphan", "journal", "mirror", "unfinished upload"]


@dataclass(frozen=True)
class Garbage:
    """Something that may be removed."""

    kind: Kind
    uri: str
    num_bytes: int
    upload_id: str = ""
    """Of an unfinished upload; a file may have several."""


@dataclass(frozen=True)
class Names:
    """Every name that a file of a store may have, below its root."""

    content: frozenset[str] = frozenset()
    journal: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()
    """In which nothing but such files should be; each ends with a slash."""

    @property
    def all(self) -> frozenset[str]:
        """Content and journal."""
        return self.content | self.journal


def judge(
    root: str,
    files: Iterable[StoredFile],
    names: Names,
    *,
    written_before: float,
    journals: bool,
) -> Iterator[Garbage]:
    """Name the garbage among the files of one store.

    Args:
        root: of the store.
        files: all that are below it.
        names: that the store's files may have.
        written_before: in seconds since 1970; what is younger is not touched.
        journals: include the journal, if the store was sealed before that.

    """
    old = [file for file in files if file.modified < written_before]
    sealed = any(file.name == SEAL_NAME for file in old)
    for file in old:
        kind = _kind(file.name, names, spent=journals and sealed)
        if kind is not None:
            yield Garbage(kind, join_uri(root, file.name), file.num_bytes)


def _kind(name: str, names: Names, *, spent: bool) -> Kind | None:
    if is_temporary(name):
        return "temporary file"
    if name in names.journal:
        return "journal" if spent else None
    if name in names.content:
        return None
    return "orphan" if name.startswith(names.folders) else None
