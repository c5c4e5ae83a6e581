"""A sealed store and its journal, as the logit store and the frame store have them in common.

The journal holds a fragment of every finished unit. A fragment's name derives from its unit alone,
so a unit that is retried or run twice meets its own file. The list of names says which units need
not be run again, and nothing else: every fragment is verified when it is gathered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pipeline.errors import FingerprintMismatch, StoreCorrupt, StoreIncomplete
from pipeline.storage.files import exists, join_uri, list_names
from pipeline.storage.sealed.identity import (
    IDENTITY_NAME,
    Facts,
    create_identity,
    differences,
    encode_identity,
    read_identity,
)
from pipeline.storage.sealed.seal import (
    FileEntry,
    Seal,
    build_seal,
    find_seal,
    publish,
    read_sealed,
    read_verified,
    write_seal,
)

JOURNAL_NAME = "journal"
# A fragment, or the cells that a unit of a logit store inherits.
_FILE = re.compile(rf"{JOURNAL_NAME}/(unit|inherited)-\d{{6,}}\.parquet")
_FRAGMENT = re.compile(r"unit-(\d{6,})\.parquet")


class Spec(Protocol):
    """What a store is made from, and how it is cut into files."""

    @property
    def identity(self) -> Facts: ...
    @property
    def layout(self) -> Facts: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def num_units(self) -> int: ...


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
        return read_sealed(self.root, self.seal, name)

    def verify(self) -> None:
        """Read every file; StoreCorrupt for the first that is missing or not the sealed one."""
        for entry in self.seal.files:
            read_verified(self.root, entry)


def open_sealed(
    root: str, decode: Callable[[bytes, str], S], *, kind: str, job: str
) -> tuple[Seal, S]:
    """Read and check the seal and the identity of a store.

    ``decode`` makes the spec from the content and the URI of ``identity.json``. Messages name the
    kind of the store, such as "logit store", and the job that makes such stores.

    Raises:
        StoreIncomplete: if there is no store, or it is not sealed.
        StoreCorrupt: if its seal or identity is damaged.
    """
    uri = join_uri(root, IDENTITY_NAME)
    seal = find_seal(root)
    if seal is None:
        raise StoreIncomplete(_progress(root, decode, kind, job))
    spec = decode(read_sealed(root, seal, IDENTITY_NAME), uri)
    if spec.fingerprint != seal.fingerprint:
        raise StoreCorrupt(uri, expected=seal.fingerprint, found=spec.fingerprint)
    return seal, spec


def open_for_writing(root: str, spec: Spec) -> Seal | None:
    """Make sure that ``root`` is this store and no other; return its seal if it has one already.

    Raises:
        FingerprintMismatch: if there is another store at ``root``.
        StoreCorrupt: if the identity or the seal there is damaged.
    """
    create_identity(root, spec.identity, spec.layout)
    return find_seal(root)


def seal_files(
    root: str,
    spec: Spec,
    entries: Iterable[FileEntry],
    *,
    shared: Mapping[str, bytes],
    provenance: Mapping[str, Any],
) -> Seal:
    """Publish the files that belong to no unit, and seal them with those that are published.

    StoreCorrupt if the store is sealed already, with other files.
    """
    shared = {**shared, IDENTITY_NAME: encode_identity(spec.identity, spec.layout)}
    published = [publish(root, name, content) for name, content in shared.items()]
    return write_seal(root, build_seal(spec.fingerprint, [*entries, *published], provenance))


def _progress(root: str, decode: Callable[[bytes, str], S], kind: str, job: str) -> str:
    """Describe how far a store is that has no seal."""
    uri = join_uri(root, IDENTITY_NAME)
    if not exists(uri):
        return f"there is no {kind} at {root}; run {job}"
    num_units = decode(read_identity(root), uri).num_units
    return (
        f"{root} is not sealed: its journal holds {len(finished_units(root))} of {num_units} "
        f"units; run {job}"
    )


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
