"""Making a frame store: open it, gather its files from the journal, seal it.

Each function may be called again after any end, and by anyone at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.dataset.manifest import Manifest, VideoRecord, decode_manifest, encode_manifest
from pipeline.errors import StoreCorrupt, StoreIncomplete
from pipeline.frames.candidates import PreparedVideo
from pipeline.frames.store_files import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    FrameSpec,
    Location,
    encode_frames,
    file_name,
    read_fragment,
)
from pipeline.storage.files import join_uri, list_files
from pipeline.storage.sealed.garbage import Garbage, judge
from pipeline.storage.sealed.identity import (
    IDENTITY_NAME,
    check_identity,
    create_identity,
    decode_identity,
    encode_identity,
    fingerprint,
)
from pipeline.storage.sealed.journal import JOURNAL_NAME
from pipeline.storage.sealed.seal import (
    FileEntry,
    Seal,
    build_seal,
    find_seal,
    publish,
    read_sealed,
    write_seal,
)


@dataclass(frozen=True)
class GatheredFile:
    """A file of frames, and the rows of the prepared manifest that point into it."""

    entry: FileEntry
    records: tuple[VideoRecord, ...]


def open_for_writing(root: str, spec: FrameSpec) -> Seal | None:
    """Make sure that ``root`` is this store and no other; return its seal if it has one already.

    Raises:
        FingerprintMismatch: if there is another store at ``root``.
        StoreCorrupt: if the identity or the seal there is damaged.

    """
    create_identity(root, spec.identity, spec.layout)
    return find_seal(root)


def gather_file(root: str, spec: FrameSpec, number: int) -> GatheredFile:
    """Write one whole file from the fragments of its units.

    Raises:
        StoreIncomplete: if units are not in the journal.
        StoreCorrupt: if a fragment is damaged, or the file is there and differs.

    """
    videos = _read_units(root, spec, spec.file_units(number))
    entry = publish(root, file_name(number), encode_frames(videos, spec.fingerprint))
    records = tuple(_placed(video.record, entry.name, i) for i, video in enumerate(videos))
    return GatheredFile(entry, records)


def seal(
    root: str,
    spec: FrameSpec,
    gathered: Sequence[GatheredFile],
    *,
    videos: Manifest,
    provenance: Mapping[str, Any],
) -> Seal:
    """Seal a store whose files are all gathered.

    Args:
        root: of the store.
        spec: of the store.
        gathered: what ``gather_file`` returned, in the order of the files.
        videos: the manifest that the store was made from.
        provenance: resolved config, environment, time. Recorded, and part of no digest.

    Raises:
        StoreIncomplete: if files are missing.
        StoreCorrupt: if the store is sealed already, with other files.

    """
    records = tuple(record for file in gathered for record in file.records)
    if len(records) != spec.num_rows:
        raise StoreIncomplete(
            f"{root} cannot be sealed: {len(records)} of {spec.num_rows} videos are gathered"
        )
    # The root is empty: its URIs start at the store, wherever that is moved.
    prepared = Manifest(videos.dataset, videos.class_names, records)
    shared = {
        MANIFEST_NAME: encode_manifest(prepared, root=""),
        IDENTITY_NAME: encode_identity(spec.identity, spec.layout),
    }
    entries = [file.entry for file in gathered]
    entries += [publish(root, name, content) for name, content in shared.items()]
    return write_seal(root, build_seal(spec.fingerprint, entries, provenance))


def _read_units(root: str, spec: FrameSpec, units: Iterable[int]) -> list[PreparedVideo]:
    found: list[PreparedVideo] = []
    for unit in units:
        try:
            found += read_fragment(root, spec, unit)
        except FileNotFoundError as error:
            reason = f"{root} lacks unit {unit}; run jobs/prepare_frames.py"
            raise StoreIncomplete(reason) from error
    return found


def _placed(record: VideoRecord, name: str, batch: int) -> VideoRecord:
    """Say where a video's candidates are; a bad one has none and stays as it is."""
    return replace(record, uri=Location(name, batch).uri) if record.good else record


# FOLDED frames/store_reader
# Opening a sealed frame store: its identity, and the prepared manifest that stages go on from.


@dataclass(frozen=True)
class FrameStore:
    """A sealed frame store; the URIs of ``manifest`` are absolute."""

    root: str
    identity: Mapping[str, Any]
    manifest: Manifest
    seal: Seal

    @property
    def root_digest(self) -> str:
        """The name of exactly these frames."""
        return self.seal.root_digest

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Refuse a store that was made from other inputs.

        Raises:
            FingerprintMismatch: naming every part that differs.

        """
        check_identity(self.root, self.identity, identity)


def open_frame_store(root: str) -> FrameStore:
    """Open a sealed frame store.

    Raises:
        StoreIncomplete: if there is no store, or it is not sealed.
        StoreCorrupt: if its seal, identity or manifest is damaged.

    """
    seal = find_seal(root)
    if seal is None:
        raise StoreIncomplete(f"no frame store is sealed at {root}; run jobs/prepare_frames.py")
    uri = join_uri(root, IDENTITY_NAME)
    content = read_sealed(root, seal, IDENTITY_NAME)
    identity, _ = decode_identity(content, uri=uri, schema_version=SCHEMA_VERSION)
    if (found := fingerprint(identity)) != seal.fingerprint:
        raise StoreCorrupt(uri, expected=seal.fingerprint, found=found)
    content = read_sealed(root, seal, MANIFEST_NAME)
    manifest = decode_manifest(content, uri=join_uri(root, MANIFEST_NAME), root=root)
    return FrameStore(root, identity, manifest, seal)


# FOLDED frames/store_garbage
# The garbage of a frame store. Its journal holds every JPEG once more.


OUR_FOLDERS = (f"{JOURNAL_NAME}/",)


def find_garbage(root: str, *, written_before: float, journals: bool = False) -> list[Garbage]:
    """List what may be removed of a frame store; nothing, if there is none at ``root``.

    Args:
        root: of the store.
        written_before: in seconds since 1970; what is younger is not touched.
        journals: include the journal, if the store was sealed before that.

    Raises:
        StoreCorrupt: if the seal is damaged.

    """
    files = list_files(root)
    if all(file.name != IDENTITY_NAME for file in files):
        return []  # a folder that is not ours is none of our business
    return judge(
        root, files, frozenset(), OUR_FOLDERS, written_before=written_before, journals=journals
    )
