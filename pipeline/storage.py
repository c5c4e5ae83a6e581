"""One door to storage: a URI is a local path or anything that fsspec opens.

Law 1 lives here: a file is written whole, then named. Locally that is a temporary file, ``fsync``
and a rename; on an object store a single put. Nothing ever streams into an open remote writer,
because an exception there publishes a truncated object.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

# Of what is parsed as a whole: seals, identities, records, configs, annotations. The longest list
# of a public data set has a third of it.
MAX_PARSED_BYTES = 128 * 2**20


def absolute_uri(uri: str) -> str:
    """Resolve ``~`` and relative paths; URIs with a scheme stay as they are."""
    if "://" in uri:
        return uri
    return os.path.abspath(os.path.expanduser(uri))


def join_uri(root: str, *parts: str) -> str:
    """Join names below a root."""
    return "/".join([root.rstrip("/"), *parts])


def is_local(uri: str) -> bool:
    """Return whether ``uri`` is a path on this machine."""
    return fsspec.utils.get_protocol(uri) in LocalFileSystem.protocol


def exists(uri: str) -> bool:
    """Return whether there is something at ``uri``."""
    filesystem, path = _filesystem(uri)
    return bool(filesystem.exists(path))


def size_bytes(uri: str) -> int:
    """Return the size of a file.

    Raises:
        FileNotFoundError: if there is none.

    """
    filesystem, path = _filesystem(uri)
    return int(filesystem.size(path))


def read_bytes(uri: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: if there is none.

    """
    filesystem, path = _filesystem(uri)
    return bytes(filesystem.cat_file(path))


def read_parsed(uri: str) -> bytes:
    """Read a whole file that is going to be parsed; one that is far too large is left unread.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is larger than any such file can be.

    """
    if (found := size_bytes(uri)) > MAX_PARSED_BYTES:
        raise ValueError(f"has {found:,} bytes; more than {MAX_PARSED_BYTES:,} are not read")
    return read_bytes(uri)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """Give a file as a path on this machine: itself, or a copy that is deleted on leaving.

    What was mapped from it stays readable after that.

    Raises:
        FileNotFoundError: if there is none.

    """
    filesystem, path = _filesystem(uri)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="dvflnet-") as folder:
        copy = Path(folder) / Path(path).name
        filesystem.get_file(path, str(copy))
        yield copy


def write_bytes(uri: str, content: bytes) -> None:
    """Publish ``content`` at ``uri``, all or nothing, replacing what is there."""
    filesystem, path = _filesystem(uri)
    if isinstance(filesystem, LocalFileSystem):
        with _temporary_file(path, content) as temporary:
            os.replace(temporary, path)
    else:
        filesystem.pipe_file(path, content)


def create_bytes(uri: str, content: bytes) -> bool:
    """Publish ``content`` at ``uri`` unless something is there already; return whether it was."""
    filesystem, path = _filesystem(uri)
    if not isinstance(filesystem, LocalFileSystem):
        try:
            filesystem.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True
    with _temporary_file(path, content) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename, a link refuses to replace
        except FileExistsError:
            return False
    return True


def list_names(uri: str) -> list[str]:
    """List the names directly below ``uri``, sorted; an empty list if there is no such folder."""
    filesystem, path = _filesystem(uri)
    try:
        entries = filesystem.ls(path, detail=False, refresh=True)
    except FileNotFoundError:
        return []
    return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)


def list_tree(uri: str) -> list[str]:
    """List all files below ``uri``, sorted, by their names relative to it."""
    filesystem, path = _filesystem(uri)
    found = filesystem.find(path)
    return sorted(str(entry)[len(path.rstrip("/")) + 1 :] for entry in found)


def write_json(uri: str, value: Any) -> None:
    """Publish ``value`` as readable JSON."""
    write_bytes(uri, readable_json(value))


def read_json(uri: str) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not JSON, too large or nested too deeply.

    """
    return parse_json(read_parsed(uri))


def parse_json(content: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: if it is none, or is nested too deeply.

    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def readable_json(value: Any) -> bytes:
    """Encode ``value`` for people: sorted and indented."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def sha256_of(content: bytes | memoryview) -> str:
    """Return the digest of ``content``, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def open_seekable(uri: str) -> Any:
    """Return what a decoder can open: a local path as text, or a seekable binary file."""
    filesystem, path = _filesystem(uri)
    return path if isinstance(filesystem, LocalFileSystem) else filesystem.open(path, "rb")


def _filesystem(uri: str) -> tuple[Any, str]:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, str(path)


@contextmanager
def _temporary_file(path: str, content: bytes) -> Iterator[Path]:
    """Write ``content`` beside ``path``, safely on disk; whatever happens, no such file stays."""
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{Path(path).name}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
