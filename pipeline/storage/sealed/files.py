"""A file of the store: published once under a derived name, verified at every read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StoreCorrupt
from pipeline.storage.files import create_bytes, join_uri, read_bytes, sha256_of, size_bytes

# A plain relative path: no scheme, no chain of file systems, no root of its own.
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


@dataclass(frozen=True, order=True)
class FileEntry:
    """A file below the root of the store, as its seal lists it."""

    name: str
    num_bytes: int
    sha256: str


def lies_below(name: Any) -> bool:
    """Return whether ``name`` can be that of a file below a root, and nothing else."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and ".." not in name.split("/")


def publish(root: str, name: str, content: bytes) -> FileEntry:
    """Create a file below ``root``, or find it there with the same content.

    Raises:
        StoreCorrupt: if it is there with other content.

    """
    uri = join_uri(root, name)
    if not create_bytes(uri, content) and (found := read_bytes(uri)) != content:
        raise StoreCorrupt(uri, expected=_summary(content), found=_summary(found))
    return FileEntry(name, len(content), sha256_of(content))


def read_verified(root: str, entry: FileEntry) -> bytes:
    """Read a file below ``root`` that is what its entry says.

    Raises:
        StoreCorrupt: if it is missing or different.

    """
    uri = join_uri(root, entry.name)
    expected = f"{entry.num_bytes} bytes, sha256 {entry.sha256}"
    try:
        if (num_bytes := size_bytes(uri)) != entry.num_bytes:  # before it fills the memory
            raise StoreCorrupt(uri, expected=expected, found=f"{num_bytes} bytes")
        content = read_bytes(uri)
    except FileNotFoundError as error:
        raise StoreCorrupt(uri, expected=expected, found="no file") from error
    if (found := _summary(content)) != expected:
        raise StoreCorrupt(uri, expected=expected, found=found)
    return content


def _summary(content: bytes) -> str:
    return f"{len(content)} bytes, sha256 {sha256_of(content)}"
