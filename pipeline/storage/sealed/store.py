"""A sealed store: made once, unit by unit, then sealed; the logit store and the frame store.

::

    <root>/identity.json                  what the content depends on, and how it is cut into files
    <root>/journal/unit-000012.parquet    one fragment a finished unit, while the stage runs
    <root>/...                            the sealed content, gathered from the journal
    <root>/seal.json                      every file with size and sha256; written last, and once

All files are created, never replaced, and their names and bytes depend on the identity and the
layout alone. So a retried task finds its own bytes in place, two jobs at once write one store, and
equal stores have equal root digests, on any machine, on any number of workers and after any number
of kills. Every file is verified at every read; the names in the journal only say which units need
not be run again. A store without a seal cannot be read. The root digest covers the fingerprint and
the files; who sealed the store, when and on what is beside it, not in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.errors import FingerprintMismatch, StoreCorrupt, StoreIncomplete
from pipeline.storage.files import (
    create_bytes,
    exists,
    join_uri,
    list_names,
    parse_json,
    read_bytes,
    read_parsed,
    readable_json,
    sha256_of,
    sha256_of_file,
    size_bytes,
)
from pipeline.storage.sealed.identity import (
    IDENTITY_NAME,
    Facts,
    canonical_json,
    decode_identity,
    differences,
    encode_identity,
    fingerprint,
    read_identity,
)

JOURNAL_NAME = "journal"
# A fragment, or the cells that a unit of a logit store inherits.
_FILE = re.compile(rf"{JOURNAL_NAME}/(unit|inherited)-\d{{6,}}\.parquet")
_FRAGMENT = re.compile(r"unit-(\d{6,})\.parquet")
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
        return f"{self.num_bytes} bytes, sha256 {self.sha256}"


@dataclass(frozen=True)
class Seal:
    """A store's fingerprint, its files in the order of their names, and how it was made."""

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


@dataclass(frozen=True)
class Spec:
    """The identity of a store, which decides its content, and its layout in files."""

    identity: Facts

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @property
    def layout(self) -> Facts:
        """Everything but the identity, as plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "identity"}

    @property
    def num_units(self) -> int:
        raise NotImplementedError


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class SealedStore(Generic[S]):
    """A store that is complete. No byte of it is used whose sha256 is not the sealed one."""

    root: str
    seal: Seal
    spec: S

    @property
    def root_digest(self) -> str:
        """The name of exactly this content."""
        return self.seal.root_digest

    def check_identity(self, wanted: Facts) -> None:
        """Refuse a store of other inputs with a FingerprintMismatch that names all differences."""
        if differing := differences(self.spec.identity, wanted):
            raise FingerprintMismatch(self.root, differing)

    def read(self, name: str) -> bytes:
        """Read a file; StoreCorrupt if it is missing or different."""
        return read_verified(self.root, sealed_entry(self.root, self.seal, name))

    def verify(self) -> None:
        """Read every file; StoreCorrupt for the first that is missing or not the sealed one."""
        for entry in self.seal.files:
            read_verified(self.root, entry)


def open_sealed(
    root: str, decode: Callable[[bytes, str], S], *, kind: str, job: str
) -> tuple[Seal, S]:
    """Read and check the seal and the identity of a store.

    ``decode`` makes the spec from the content and the URI of ``identity.json``. Messages name the
    kind of the store, such as "logit store", and the job that makes such stores. StoreIncomplete if
    there is no store, or it is not sealed; StoreCorrupt if its seal or identity is damaged.
    """
    uri = join_uri(root, IDENTITY_NAME)
    seal = find_seal(root)
    if seal is None and not exists(uri):
        raise StoreIncomplete(f"there is no {kind} at {root}; run {job}")
    if seal is None:
        num_units = decode(read_identity(root), uri).num_units
        raise StoreIncomplete(
            f"{root} is not sealed: its journal holds {len(finished_units(root))} of {num_units} "
            f"units; run {job}"
        )
    spec = decode(read_verified(root, sealed_entry(root, seal, IDENTITY_NAME)), uri)
    if spec.fingerprint != seal.fingerprint:
        raise StoreCorrupt(uri, expected=seal.fingerprint, found=spec.fingerprint)
    return seal, spec


def open_for_writing(root: str, spec: Spec) -> Seal | None:
    """Make sure that ``root`` is this store and no other; return its seal if it has one already.

    Its identity is written, or the same one found there. FingerprintMismatch if the store there has
    another identity or layout; StoreCorrupt if its identity or seal is damaged.
    """
    uri, identity = join_uri(root, IDENTITY_NAME), spec.identity
    if not create_bytes(uri, encode_identity(identity, spec.layout)):
        version = identity["schema_version"]
        there, cut = decode_identity(read_identity(root), uri=uri, schema_version=version)
        layouts = {"layout": cut}, {"layout": spec.layout}
        if differing := differences(there, identity) or differences(*layouts):
            raise FingerprintMismatch(root, differing)
    return find_seal(root)


def seal_files(
    root: str,
    spec: Spec,
    entries: Iterable[FileEntry],
    *,
    shared: Mapping[str, bytes],
    provenance: Mapping[str, Any],
) -> Seal:
    """Publish the files that belong to no unit, then write the seal over them and ``entries``.

    StoreCorrupt if the store is sealed already, with other files.
    """
    shared = {**shared, IDENTITY_NAME: encode_identity(spec.identity, spec.layout)}
    published = [publish(root, name, content) for name, content in shared.items()]
    files = tuple(sorted({*entries, *published}))  # a shard that was gathered twice counts once
    return write_seal(root, Seal(spec.fingerprint, files, provenance))


def finished_units(root: str) -> set[int]:
    names = list_names(join_uri(root, JOURNAL_NAME))
    return {int(match[1]) for name in names if (match := _FRAGMENT.fullmatch(name))}


def is_journalled(name: str) -> bool:
    """Return whether a file below the root of a store is of the journal, whatever its unit."""
    return _FILE.fullmatch(name) is not None


def fragment_footer(fingerprint: str, unit: int, content_sha256: str) -> dict[bytes, bytes]:
    """Return what the footer of a fragment says; ``content_sha256`` is of its decoded values."""
    return {
        b"fingerprint": fingerprint.encode(),
        b"unit": str(unit).encode(),
        b"content_sha256": content_sha256.encode(),
    }


def fragment_name(unit: int) -> str:
    """Return the name of a unit's fragment, below the root of the store."""
    return f"{JOURNAL_NAME}/unit-{unit:06d}.parquet"


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

    FileNotFoundError if the store is not sealed; StoreCorrupt if the seal is damaged.
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
    for name in (file.name for file in files):
        if not (isinstance(name, str) and _NAME.fullmatch(name)) or ".." in name.split("/"):
            raise StoreCorrupt(uri, "names of files below its store", repr(name))
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


def publish(root: str, name: str, content: bytes) -> FileEntry:
    """Create a file below ``root``; StoreCorrupt if it is there with other content."""
    uri, entry = join_uri(root, name), entry_of(name, content)
    if not create_bytes(uri, content):
        _check(uri, entry, entry_of(name, read_bytes(uri)))
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
    _check(uri, entry, entry_of(entry.name, content))
    return content


def check_file(path: Path, entry: FileEntry) -> None:
    """Compare a file on this machine with its entry, without taking it into memory.

    FileNotFoundError if it is missing; StoreCorrupt if it is different.
    """
    _check(str(path), entry, FileEntry(entry.name, path.stat().st_size, sha256_of_file(path)))


def entry_of(name: str, content: bytes) -> FileEntry:
    return FileEntry(name, len(content), sha256_of(content))


def _check(uri: str, entry: FileEntry, found: FileEntry) -> None:
    if found != entry:
        raise StoreCorrupt(uri, str(entry), str(found))
