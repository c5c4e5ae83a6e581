"""The seal: the list of every file of a store, written last and only once.

A store that has it is complete, and one without it cannot be read. The root digest covers the
fingerprint and the files; who sealed the store, when and on what is beside it, not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from pipeline.errors import StoreCorrupt
from pipeline.logits.identity import canonical_json
from pipeline.storage.files import (
    create_bytes,
    join_uri,
    parse_json,
    read_parsed,
    readable_json,
    sha256_of,
)
from pipeline.storage.sealed.files import FileEntry, lies_below, read_verified

SEAL_NAME = "seal.json"


@dataclass(frozen=True)
class Seal:
    """A store's fingerprint, its files by name, and what is good to know of its making."""

    fingerprint: str
    files: tuple[FileEntry, ...]
    provenance: Mapping[str, Any]  # resolved config, environment, time: decides nothing

    @property
    def root_digest(self) -> str:
        """sha256 over the fingerprint and every name, size and sha256."""
        return sha256_of(canonical_json([self.fingerprint, [asdict(file) for file in self.files]]))

    @cached_property
    def entries(self) -> Mapping[str, FileEntry]:
        """The files by name."""
        return {file.name: file for file in self.files}


def build_seal(fingerprint: str, files: Iterable[FileEntry], provenance: Mapping[str, Any]) -> Seal:
    """Put files in their one order; a file that is given twice counts once."""
    return Seal(fingerprint, tuple(sorted(set(files))), provenance)


def write_seal(root: str, seal: Seal) -> Seal:
    """Write a seal, unless the same store is sealed already; return the one that is there.

    Raises:
        StoreCorrupt: if the store is sealed with other files.

    """
    values = asdict(seal) | {"root_digest": seal.root_digest}
    if create_bytes(join_uri(root, SEAL_NAME), readable_json(values)):
        return seal
    found = read_seal(root)
    if found.root_digest != seal.root_digest:
        raise StoreCorrupt(
            join_uri(root, SEAL_NAME),
            expected=f"root digest {seal.root_digest}",
            found=f"root digest {found.root_digest}",
        )
    return found


def read_seal(root: str) -> Seal:
    """Read the seal and check it against its own root digest.

    Raises:
        FileNotFoundError: if the store is not sealed.
        StoreCorrupt: if the seal is damaged.

    """
    uri = join_uri(root, SEAL_NAME)
    try:
        values = parse_json(read_parsed(uri))
        files = tuple(FileEntry(**entry) for entry in values["files"])
        seal = Seal(values["fingerprint"], files, values["provenance"])
        expected = values["root_digest"]
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt(uri, expected="a seal", found=repr(error)) from error
    if seal.root_digest != expected:
        raise StoreCorrupt(uri, expected=f"root digest {expected}", found=seal.root_digest)
    for file in files:
        if not lies_below(file.name):
            raise StoreCorrupt(uri, "names of files below its store", repr(file.name))
    return seal


def find_seal(root: str) -> Seal | None:
    """Read the seal if there is one.

    Raises:
        StoreCorrupt: if it is damaged.

    """
    try:
        return read_seal(root)
    except FileNotFoundError:
        return None


def sealed_entry(root: str, seal: Seal, name: str) -> FileEntry:
    """Return what a seal says of a file.

    Raises:
        StoreCorrupt: if the seal has no such file.

    """
    if name not in seal.entries:
        uri = join_uri(root, SEAL_NAME)
        raise StoreCorrupt(uri, expected=f"{name} among its files", found="no such entry")
    return seal.entries[name]


def read_sealed(root: str, seal: Seal, name: str) -> bytes:
    """Read a file that is what its seal says.

    Raises:
        StoreCorrupt: if the seal has no such file, or the file is missing or different.

    """
    return read_verified(root, sealed_entry(root, seal, name))
