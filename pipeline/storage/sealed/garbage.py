"""The garbage of a store: files that may be removed while writers are at work.

A store's files have names that follow from its identity alone, so garbage is recognised without
asking what is finished or sealed, and a writer that starts, goes on or seals changes no verdict:

- Finished work stays: every fragment of the journal, and every file that the seal lists. Neither
  depends on the layout in ``identity.json``, which no digest covers.
- Other files in our folders are orphans. A temporary file that is older than any write takes was
  left by a killed writer. If clocks differ so much that a live one is removed, its writer's rename
  fails, and the unit is run again.
- Files that are not in our folders stay.
- Journals of sealed stores go only if that is asked for: no reader needs them, but the doctor
  compares shards with them, and a damaged file can be gathered from them again. A second writer of
  the same store may still use one, so it must be as old as other garbage, counted from the seal.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from pipeline.storage.files import StoredFile, is_temporary, join_uri
from pipeline.storage.sealed.store import SEAL_NAME, find_seal, is_journalled


@dataclass(frozen=True)
class Garbage:
    """Something that may be removed."""

    kind: str  # "temporary file", "orphan", "journal", "mirror"
    uri: str
    num_bytes: int


def judge(
    root: str,
    files: Iterable[StoredFile],
    own: Set[str],
    folders: tuple[str, ...],
    *,
    written_before: float,
    journals: bool,
) -> list[Garbage]:
    """Name the garbage among the files of one store.

    ``own`` are the names that its files may have, beside those of the journal, and ``folders`` the
    prefixes, each with a slash at its end, that hold nothing but such files. Files younger than
    ``written_before``, in seconds since 1970, are not touched; ``journals`` includes the journal,
    if the store was sealed before that. StoreCorrupt if the seal is damaged.
    """
    seal = find_seal(root)
    own = own if seal is None else own | seal.entries.keys()
    old = [file for file in files if file.modified < written_before]
    spent = journals and any(file.name == SEAL_NAME for file in old)
    return [
        Garbage(kind, join_uri(root, file.name), file.num_bytes)
        for file in old
        if (kind := _kind(file.name, own, folders, spent=spent))
    ]


def _kind(name: str, own: Set[str], folders: tuple[str, ...], *, spent: bool) -> str | None:
    if is_temporary(name):
        return "temporary file"
    if is_journalled(name):
        return "journal" if spent else None
    return "orphan" if name.startswith(folders) and name not in own else None
