"""The seal: the list of every file of a store, written last and only once.

A store that has it is complete, and one without it cannot be read. The root digest covers the
fingerprint and the files; who sealed the store, when and on what is beside it, not in it.

A file is published once, under a name that follows from the identity, and verified at every read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import StoreCorrupt
from pipeline.storage.files import (
    create_bytes,
    join_uri,
    parse_json,
    read_bytes,
    read_parsed,
    readable_json,
    sha256_of,
    sha256_of_file,
    size_bytes,
)
from pipeline.storage.sealed.identity import canonical_json

SEAL_NAME = "seal.json"
# A plain relative path: no scheme, no chain of file systems, no root of its own.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


@dataclass(frozen=True, order=True)
class FileEntry:
    """A file below the root of the store, as its seal lists it."""

    name: str
    num_bytes: int
    sha256: str

    def __str__(self) -> str:
        return _summary(self.num_bytes, self.sha256)


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
        return {file.name: file for file in self.files}


def build_seal(fingerprint: str, files: Iterable[FileEntry], provenance: Mapping[str, Any]) -> Seal:
    """Put files in their one order; a file that is given twice counts once."""
    return Seal(fingerprint, tuple(sorted(set(files))), provenance)


def write_seal(root: str, seal: Seal) -> Seal:
    """Write a seal, unless the same store is sealed already; return the one that is there.

    StoreCorrupt if the store is sealed with other files.
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
    """Read the seal if there is one; StoreCorrupt if it is damaged."""
    try:
        return read_seal(root)
    except FileNotFoundError:
        return None


def sealed_entry(root: str, seal: Seal, name: str) -> FileEntry:
    """Return what a seal says of a file; StoreCorrupt if it has no such file."""
    if name not in seal.entries:
        uri = join_uri(root, SEAL_NAME)
        raise StoreCorrupt(uri, expected=f"{name} among its files", found="no such entry")
    return seal.entries[name]


def read_sealed(root: str, seal: Seal, name: str) -> bytes:
    """Read a file that is what its seal says.

    StoreCorrupt if the seal has no such file, or the file is missing or different.
    """
    return read_verified(root, sealed_entry(root, seal, name))


def publish(root: str, name: str, content: bytes) -> FileEntry:
    """Create a file below ``root``; StoreCorrupt if it is there with other content."""
    uri, entry = join_uri(root, name), FileEntry(name, len(content), sha256_of(content))
    if not create_bytes(uri, content) and (found := read_bytes(uri)) != content:
        raise StoreCorrupt(uri, str(entry), _summary(len(found), sha256_of(found)))
    return entry


def read_verified(root: str, entry: FileEntry) -> bytes:
    """Read a file below ``root`` as its entry says; StoreCorrupt if it is missing or different."""
    uri = join_uri(root, entry.name)
    try:
        if (num_bytes := size_bytes(uri)) != entry.num_bytes:  # before it fills the memory
            raise StoreCorrupt(uri, str(entry), f"{num_bytes} bytes")
        content = read_bytes(uri)
    except FileNotFoundError as error:
        raise StoreCorrupt(uri, str(entry), "no file") from error
    _check(uri, entry, len(content), sha256_of(content))
    return content


def check_file(path: Path, entry: FileEntry) -> None:
    """Compare a file on this machine with its entry, without taking it into memory.

    Raises:
        FileNotFoundError: if it is missing.
        StoreCorrupt: if it is different.
    """
    _check(str(path), entry, path.stat().st_size, sha256_of_file(path))


def _check(uri: str, entry: FileEntry, num_bytes: int, sha256: str) -> None:
    if (num_bytes, sha256) != (entry.num_bytes, entry.sha256):
        raise StoreCorrupt(uri, str(entry), _summary(num_bytes, sha256))


def _summary(num_bytes: int, sha256: str) -> str:
    return f"{num_bytes} bytes, sha256 {sha256}"


def lies_below(name: Any) -> bool:
    """Return whether ``name`` can be that of a file below a root, and nothing else."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and ".." not in name.split("/")
