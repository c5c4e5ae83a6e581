"""A copy of the file in which Ray Train keeps what has been reported: its snapshot.

Ray Train writes it in place, and refuses to start on half of it. A kill or a full disk in the
middle would therefore lose a whole run, whose checkpoints are all there. So each snapshot that was
written is copied, whole or not at all. The copy is at most one report behind, and names only
checkpoints that exist: those that a new snapshot leaves out are deleted after it was written.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.storage.files import exists, is_local, join_uri, read_bytes, write_bytes

SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's name for it
COPY = "snapshot.json"


def has_started(folder: str) -> bool:
    """Return whether Ray Train has reported anything in a run's folder."""
    return exists(join_uri(folder, SNAPSHOT))


def keep_snapshot(folder: str) -> None:
    """Copy the snapshot of a run's folder. An object store publishes whole files: no need there."""
    if is_local(folder):
        write_bytes(f"{folder}/{COPY}", read_bytes(f"{folder}/{SNAPSHOT}"))


def mend_snapshot(folder: str) -> None:
    """Before a start: put the copy in the place of half a snapshot.

    Half of the first one is deleted; nothing was reported before it.
    """
    snapshot, copy = Path(folder, SNAPSHOT), Path(folder, COPY)
    if not is_local(folder) or not snapshot.exists():
        return
    if _whole(snapshot):
        keep_snapshot(folder)  # whoever died may not have come to that
    elif copy.exists():
        write_bytes(str(snapshot), copy.read_bytes())
    else:
        snapshot.unlink()


def _whole(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
