"""Where a machine keeps its own copies of sealed artefacts, and the lock they are made under."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StorageUnavailable
from pipeline.storage.files import is_local, writing_to

MIRRORS = Path(tempfile.gettempdir()) / f"dvflnet-mirrors-{os.getuid()}"
LOCK_SECONDS = 3600.0  # longer than the largest artefact takes to copy


@contextmanager
def making(mirror: Path, *, timeout_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of a mirror: the first process of a machine makes it, the others wait.

    Raises:
        StorageUnavailable: if another process holds the lock for too long.

    """
    mirror.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{mirror}.lock", timeout=timeout_seconds):
            yield
    except Timeout as error:
        raise StorageUnavailable(f"{mirror}.lock was held for {timeout_seconds:.0f} s") from error


# FOLDED storage/train_lock
# One job at a time trains a run: two would delete each other's checkpoints.


@contextmanager
def training_alone(folder: str) -> Iterator[None]:
    """Hold the folder of a run. The lock ends with the process, however that ends.

    An object store has no locks; there it is the user who starts a run once.

    Raises:
        StorageUnavailable: if another job trains this run now.

    """
    if not is_local(folder):
        yield
        return
    with writing_to(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder, ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageUnavailable(
            f"{folder} is being trained by another job.\n"
            "  Wait for it; the same command then says what became of it."
        ) from error
    try:
        yield
    finally:
        lock.release()
