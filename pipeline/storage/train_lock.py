"""One job at a time trains a run: two would delete each other's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StorageUnavailable
from pipeline.storage.files import is_local, writing_to


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
