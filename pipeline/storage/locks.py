"""Where a machine keeps its own copies of sealed artefacts, and the lock they are made under."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StorageUnavailable

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
