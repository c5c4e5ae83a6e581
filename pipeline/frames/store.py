"""Making a frame store: open it, gather its files from the journal, seal it.

Each function may be called again after any end, and by anyone at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.dataset.manifest import Manifest, VideoRecord, encode_manifest
from pipeline.errors import StoreIncomplete
from pipeline.frames.candidates import PreparedVideo
from pipeline.frames.store_files import Location, encode_frames
from pipeline.frames.store_journal import read_fragment
from pipeline.frames.store_layout import MANIFEST_NAME, FrameSpec, file_name
from pipeline.storage.sealed.files import FileEntry, publish
from pipeline.storage.sealed.identity import IDENTITY_NAME, create_identity, encode_identity
from pipeline.storage.sealed.seal import Seal, build_seal, find_seal, write_seal


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
