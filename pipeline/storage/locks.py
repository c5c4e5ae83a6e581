"""A machine's own copies of sealed files, the locks on them, and the lock on a training run."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StorageUnavailable
from pipeline.storage.files import is_local, write_bytes, writing_to

MIRRORS = Path(tempfile.gettempdir()) / f"dvflnet-mirrors-{os.getuid()}"
LOCK_SECONDS = 3600.0  # longer than the largest artefact takes to copy
JOB_VARIABLE = "DVFLNET_JOB"


def job_id() -> str:
    """Return the id of this job, which its processes share; without one, of this process."""
    return os.environ.get(JOB_VARIABLE) or _process_id()


@cache
def _process_id() -> str:
    return uuid.uuid4().hex


@contextmanager
def making(mirror: Path, *, timeout_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock of a mirror; StorageUnavailable if it cannot be made, or stays held."""
    lock = FileLock(f"{mirror}.lock", timeout=timeout_seconds)
    with writing_to(f"{mirror} (a copy on this machine; TMPDIR moves it)"):
        mirror.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            message = f"{mirror}.lock was held for {timeout_seconds:.0f} s"
            raise StorageUnavailable(message) from error
    try:
        yield
    finally:
        lock.release()


def verify_once(mirror: Path, path: Path, verify: Callable[[], None]) -> None:
    """Verify ``path`` once a job and machine. The caller holds the lock of ``mirror``.

    A marker beside the mirror names the job that verified it last, so damage that comes later is
    found by the next job, and a job that runs beside another may verify twice. ``path`` is the
    mirror itself, or an original elsewhere on this machine. ``verify`` raises, or leaves a sound
    file at ``path``.
    """
    marker, mark = Path(f"{mirror}.verified"), f"{job_id()} {path}\n".encode()
    if path.exists() and marker.exists() and marker.read_bytes() == mark:
        return
    verify()
    write_bytes(str(marker), mark)


@contextmanager
def training_alone(folder: str) -> Iterator[None]:
    """Hold the folder of a run, or raise StorageUnavailable if another job trains that run now.

    Two jobs would delete each other's checkpoints. The lock ends with the process, even a killed
    one. An object store has no locks: there the user must not start a run twice.
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
