"""The garbage of an experiment: what killed writers left, listed, and deleted on request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import StoreIncomplete
from pipeline.frames import store as frame_store
from pipeline.logits import generations as logit_store
from pipeline.logits.mirror import find_superseded, remove_mirror
from pipeline.storage import files
from pipeline.storage.files import exists, is_temporary, join_uri, list_files
from pipeline.storage.locks import MIRRORS
from pipeline.storage.sealed.garbage import Garbage
from pipeline.storage.sealed.identity import IDENTITY_NAME


def run_gc(config: ExperimentConfig, *, delete: bool, min_age_hours: float, journals: bool) -> None:
    """List the garbage of an experiment and of this machine's mirrors; ``delete`` also deletes it.

    Files younger than ``min_age_hours`` are left alone. With ``journals`` those of sealed stores
    are garbage too.

    Raises:
        StoreIncomplete: if there is neither a logit store nor a frame store.
        FingerprintMismatch, StoreCorrupt: if one is of another version, or damaged.
    """
    stores = (config.store_uri, config.frames_uri)
    if not any(exists(join_uri(root, IDENTITY_NAME)) for root in stores):
        raise StoreIncomplete(
            f"there is neither a logit store at {config.store_uri} nor a frame store at "
            f"{config.frames_uri}. Does the config name the right place?"
        )
    written_before = time.time() - 3600 * min_age_hours
    garbage = {found.uri: found for found in _everywhere(config, written_before, journals)}
    for found in garbage.values():
        kept = delete and not _delete(found)
        print(f"{found.kind}: {found.uri}{' (in use, kept)' if kept else ''}")
    num_bytes = sum(found.num_bytes for found in garbage.values())
    what = "deleted" if delete else "to delete, with --delete"
    print(f"{len(garbage)} things, {num_bytes:,} bytes {what}" if garbage else "no garbage")


def _everywhere(
    config: ExperimentConfig, written_before: float, journals: bool
) -> Iterator[Garbage]:
    for find_garbage, root in (
        (logit_store.find_garbage, config.store_uri),
        (frame_store.find_garbage, config.frames_uri),
    ):
        yield from find_garbage(root, written_before=written_before, journals=journals)
    for file in list_files(config.artefacts):
        if is_temporary(file.name) and file.modified < written_before:
            uri = join_uri(config.artefacts, file.name)
            yield Garbage("temporary file", uri, file.num_bytes)
    for folder, num_bytes in find_superseded(MIRRORS, written_before=written_before):
        yield Garbage("mirror", str(folder), num_bytes)


def _delete(found: Garbage) -> bool:
    if found.kind == "mirror":
        return remove_mirror(Path(found.uri))
    return files.delete(found.uri)
