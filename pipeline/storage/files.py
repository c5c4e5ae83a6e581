"""The one door to storage: a URI is a local path or anything that fsspec opens.

Law 1 is kept here: a file is written whole, then named. Locally that is a temporary file, ``fsync``
and a rename; on an object store a single put. Nothing ever streams into an open remote writer,
because an exception there publishes a truncated object.

Credentials and endpoint of an object store come from the environment, and no call takes longer than
its deadline (``pipeline.storage.s3``): any function here may raise ``StorageUnavailable``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StorageUnavailable, StoreCorrupt
from pipeline.storage import s3

# Seals, identities, records, configs and annotations are parsed as a whole. The longest list of a
# public data set has a third of this.
MAX_PARSED_BYTES = 128 * 2**20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # the names that _temporary_file gives


@dataclass(frozen=True, order=True)
class StoredFile:
    """A file below some URI; ``modified`` is in seconds since 1970, by the storage's clock."""

    name: str
    num_bytes: int
    modified: float


def absolute_uri(uri: str, folder: str = "") -> str:
    """Resolve ``~`` and paths relative to ``folder``, or else to the working directory.

    URIs with a scheme stay as they are. ValueError if no home is known that ``~`` could stand for,
    as of a user id in a container.
    """
    if "://" in uri:
        return uri
    path = os.path.expanduser(uri)
    if path.startswith("~"):
        raise ValueError(f"{uri}: no home folder is known; set HOME, or write the whole path")
    path = os.path.join(folder, path)
    return path if "://" in path else os.path.abspath(path)


def join_uri(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/"), *parts])


def is_local(uri: str) -> bool:
    return fsspec.utils.get_protocol(uri) in LocalFileSystem.protocol


def is_in_bucket(uri: str) -> bool:
    return fsspec.utils.get_protocol(uri) in ("s3", "s3a")


def longest_wait_seconds(uri: str) -> float:
    """Return how long one call waits for the storage of ``uri`` before it gives up; locally 0."""
    return 0.0 if is_local(uri) else s3.deadline_seconds()


def exists(uri: str) -> bool:
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, AsyncFileSystem):
        return s3.exists(filesystem, path)
    return bool(filesystem.exists(path))


def size_bytes(uri: str) -> int:
    """Return the size of a file; FileNotFoundError if there is none."""
    filesystem, path = filesystem_of(uri)
    return int(_call(filesystem, "info", path)["size"])


def read_bytes(uri: str) -> bytes:
    """Read a whole file; FileNotFoundError if there is none."""
    filesystem, path = filesystem_of(uri)
    return bytes(_call(filesystem, "cat_file", path))


def read_parsed(uri: str) -> bytes:
    """Read a whole file for parsing; ValueError if it has more than ``MAX_PARSED_BYTES``."""
    if (found := size_bytes(uri)) > MAX_PARSED_BYTES:
        raise ValueError(f"has {found:,} bytes; more than {MAX_PARSED_BYTES:,} are not read")
    return read_bytes(uri)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """Yield a file as a path on this machine: itself, or a copy that is deleted at the end.

    A mapping of the copy stays readable after that.
    """
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="dvflnet-") as folder:
        copy = Path(folder) / Path(path).name
        _call(filesystem, "get_file", path, str(copy))
        yield copy


def write_bytes(uri: str, content: bytes) -> None:
    """Publish ``content`` at ``uri``, all or nothing, replacing what is there."""
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, LocalFileSystem):
        with _temporary_file(path, content) as temporary:
            os.replace(temporary, path)
    elif isinstance(filesystem, AsyncFileSystem):
        s3.put(filesystem, path, content)
    else:
        filesystem.pipe_file(path, content)


def create_bytes(uri: str, content: bytes) -> bool:
    """Publish ``content`` at ``uri`` unless something is there already; return whether it was.

    A warning is logged for a server that cannot promise this (``pipeline.storage.s3``).
    """
    filesystem, path = filesystem_of(uri)
    if isinstance(filesystem, AsyncFileSystem):
        return s3.create(filesystem, path, content)
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
    filesystem, path = filesystem_of(uri)
    try:
        entries = _call(filesystem, "ls", path, detail=False)
    except FileNotFoundError:
        return []
    below = [entry.rstrip("/") for entry in entries]
    folder = path.rstrip("/")  # in a bucket an object may have the folder's name and be listed too
    return sorted(entry.rsplit("/", 1)[-1] for entry in below if entry != folder)


def list_tree(uri: str, *, follow_links: bool = False) -> list[str]:
    """List the names of all files below ``uri``, sorted; with links followed on a disk only."""
    if follow_links and is_local(uri):
        return sorted(_linked_tree(filesystem_of(uri)[1]))
    return [file.name for file in list_files(uri)]


def _linked_tree(path: str) -> Iterator[str]:
    """Walk a folder and the folders that it links to, but no circle of links twice."""
    parents: dict[str, frozenset[str]] = {}  # folder -> real paths of the folders it lies in
    for folder, folders, names in os.walk(path, followlinks=True):
        above = parents.get(os.path.dirname(folder), frozenset())
        real = os.path.realpath(folder)
        if real in above:
            folders.clear()
            continue
        parents[folder] = above | {real}
        yield from (os.path.relpath(os.path.join(folder, name), path) for name in names)


def list_files(uri: str) -> list[StoredFile]:
    """List all files below ``uri``, sorted; files that are deleted meanwhile may be missing."""
    filesystem, path = filesystem_of(uri)
    found = _call(filesystem, "find", path, detail=True)
    start = len(path.rstrip("/")) + 1
    return sorted(
        StoredFile(str(name)[start:], int(facts["size"]), _modified(facts))
        for name, facts in found.items()
    )


def is_temporary(name: str) -> bool:
    """Return whether a name, or the last part of a path, is that of a file not yet whole."""
    return _TEMPORARY.fullmatch(name.rsplit("/", 1)[-1]) is not None


def delete(uri: str) -> bool:
    """Delete a file; return whether it was there, which a bucket always claims."""
    filesystem, path = filesystem_of(uri)
    try:
        _call(filesystem, "rm_file", path)
    except FileNotFoundError:
        return False
    return True


def write_json(uri: str, value: Any) -> None:
    write_bytes(uri, readable_json(value))


def read_json(uri: str) -> Any:
    """Read a JSON file; ValueError if it is not JSON, too large or nested too deeply."""
    return parse_json(read_parsed(uri))


def write_record(uri: str, values: Mapping[str, Any]) -> None:
    """Write a JSON file of ours, with a digest of all the rest of it."""
    as_read = parse_json(readable_json(values))
    write_json(uri, as_read | {"digest": _digest_of(as_read)})


def read_record(uri: str) -> dict[str, Any]:
    """Read what ``write_record`` wrote; StoreCorrupt if it is damaged.

    A record of an older version has no digest and cannot be checked.
    """
    try:
        values = dict(read_json(uri))
    except (ValueError, TypeError) as error:
        raise StoreCorrupt(uri, "a record as JSON", str(error)) from error
    for name in values:  # the digest's own name may be what is damaged
        rest = {other: value for other, value in values.items() if other != name}
        if name == "digest" or values[name] == _digest_of(rest):
            if (name, values[name]) != ("digest", _digest_of(rest)):
                raise StoreCorrupt(uri, f"digest {values[name]}", f"digest {_digest_of(rest)}")
            return rest
    return values


def _digest_of(values: Mapping[str, Any]) -> str:
    return sha256_of(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


def parse_json(content: bytes | str) -> Any:
    """Parse JSON; ValueError if it is none, or is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def readable_json(value: Any) -> bytes:
    """Encode ``value`` for people: sorted and indented."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def sha256_of(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def filesystem_of(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URI, with our settings, and the path there."""
    filesystem, path = fsspec.core.url_to_fs(uri, **(s3.S3_OPTIONS if is_in_bucket(uri) else {}))
    return filesystem, str(path)


def _call(filesystem: Any, operation: str, path: str, *arguments: Any, **options: Any) -> Any:
    if isinstance(filesystem, AsyncFileSystem):
        return s3.call(filesystem, operation, path, *arguments, **options)
    return getattr(filesystem, operation)(path, *arguments, **options)


def _modified(facts: dict[str, Any]) -> float:
    """Read the time of a file's last change, for which each filesystem has a key of its own."""
    value = next(facts[key] for key in ("mtime", "LastModified", "created") if key in facts)
    return float(value.timestamp() if isinstance(value, datetime) else value)


@contextmanager
def _temporary_file(path: str, content: bytes) -> Iterator[Path]:
    """Write ``content`` to a file beside ``path``, safely on disk; it is gone at the end."""
    folder = Path(path).parent
    temporary = folder / f".{Path(path).name}.{uuid.uuid4().hex}.tmp"
    with writing_to(path):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with writing_to(path), open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing_to(uri: str) -> Iterator[None]:
    """Turn an ``OSError`` while writing into ``StorageUnavailable``, with path and free space."""
    try:
        yield
    except OSError as error:
        space = ""
        if is_local(uri):
            folder = next(folder for folder in Path(uri).absolute().parents if folder.exists())
            usage = shutil.disk_usage(folder)
            space = f" ({usage.free:,} of {usage.total:,} bytes are free)"
        raise StorageUnavailable(
            f"{uri} cannot be written: {error.strerror or error}{space}\n"
            "  Nothing is lost: make room or mend it, then run the same command again."
        ) from error
