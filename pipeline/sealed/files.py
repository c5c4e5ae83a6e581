"""A file of the store: published once under a derived name, verified at every read."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import StoreCorrupt
from pipeline.storage import create_bytes, join_uri, read_bytes, sha256_of


@dataclass(frozen=True, order=True)
class FileEntry:
    """A file below the root of the store, as its seal lists it."""

    name: str
    num_bytes: int
    sha256: str


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
        content = read_bytes(uri)
    except FileNotFoundError as error:
        raise StoreCorrupt(uri, expected=expected, found="no file") from error
    if (found := _summary(content)) != expected:
        raise StoreCorrupt(uri, expected=expected, found=found)
    return content


def _summary(content: bytes) -> str:
    return f"{len(content)} bytes, sha256 {sha256_of(content)}"
