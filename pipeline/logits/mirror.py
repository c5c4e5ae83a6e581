"""The mirror: a sealed store as memory-mapped arrays on this machine, to gather rows from.

No store format reads random rows as fast as a memory map, and copying the store into one costs
microseconds a row, once. The first process of a machine makes the mirror, or verifies the one that
is there, once a job and under a lock; the others wait and map the same pages.

A damaged mirror is made again from the store, with a warning that names the file: unlike with a
damaged store, nothing is lost and nothing hidden.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError, Status, StorageUnavailable, StoreIncomplete
from pipeline.logits.cells import cell_shapes
from pipeline.logits.spec import StoreSpec
from pipeline.logits.store import LogitStore, open_store
from pipeline.storage.files import read_json, sha256_of_file, write_json, writing_to
from pipeline.storage.locks import making, verify_once
from pipeline.storage.sealed.store import find_seal
from pipeline.views.view import kept_places

RECORD_NAME = "mirror.json"
BUILDING = ".building"  # suffix of a mirror that is not whole yet
_DIGEST = re.compile(r"[0-9a-f]{64}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Mirror:
    """The memory-mapped arrays of a store; the view axis is ``spec.view_indices``."""

    root_digest: str
    store_uri: str  # of the generation that it is a copy of
    spec: StoreSpec
    status: NDArray[np.uint8]  # (N, V)
    logits: NDArray[np.float16]  # (N, V, K), centred
    logit_offset: NDArray[np.float32]  # (N, V)
    view_digest: NDArray[np.uint64]  # (N, V)
    frame_crc: NDArray[np.uint32]  # (N, V, T)
    label: NDArray[np.int32]  # (N,)

    def teacher_logits(self, rows: ArrayLike, view_indices: ArrayLike) -> NDArray[np.float32]:
        """Gather centred logits, (B, K), for rows and view indices, both (B,).

        StoreIncomplete if the store has no such view, or one of the cells holds no logits.
        """
        rows, slots = np.asarray(rows), self._good_slots(rows, view_indices)
        logits: NDArray[np.float32] = self.logits[rows, slots].astype(np.float32)  # (B, K)
        return logits

    def proof_of(self, row: int, view_index: int) -> tuple[int, NDArray[np.uint32]]:
        """Return the digest of the view that the teacher saw, and the CRC-32 of its frames, (T,).

        Raises as ``teacher_logits``.
        """
        slot = self._good_slots([row], [view_index])[0]
        return int(self.view_digest[row, slot]), self.frame_crc[row, slot]

    def pixels_of(self, row: int, view_index: int) -> NDArray[np.uint32]:
        """Return the CRC-32 of the frames that the teacher saw, ``(T,)``, good logits or not."""
        crc: NDArray[np.uint32] = self.frame_crc[row, self.spec.slots(view_index)]
        return crc

    def cell_of_digest(self, view_digest: int) -> tuple[int, int] | None:
        """Return row and view index of the cell whose view has this digest, if there is one."""
        return self._first_good(self.view_digest == np.uint64(view_digest))

    def cell_of_pixels(self, frame_crc: ArrayLike, stride: int) -> tuple[int, int] | None:
        """Return row and view index of the cell that holds these CRCs, if there is one.

        ``frame_crc`` is uint32, of the frames of a view that are kept, one in ``stride``.
        """
        crc = np.asarray(frame_crc, np.uint32)
        places = kept_places(self.spec.num_frames, stride)
        return self._first_good((self.frame_crc[:, :, places] == crc).all(axis=2))

    def _first_good(self, wanted: NDArray[np.bool_]) -> tuple[int, int] | None:
        for row, slot in np.argwhere(wanted & (self.status == Status.GOOD)):
            return int(row), self.spec.view_indices[slot]
        return None

    def _good_slots(self, rows: ArrayLike, view_indices: ArrayLike) -> NDArray[np.intp]:
        """Return positions on the view axis, (B,), of cells that all hold logits."""
        rows, slots = np.asarray(rows), self.spec.slots(view_indices)
        status = self.status[rows, slots]
        if (bad := np.flatnonzero(status != Status.GOOD)).size:
            row, view_index = rows[bad[0]], self.spec.view_indices[slots[bad[0]]]
            raise StoreIncomplete(
                f"row {row}, view {view_index} holds no logits: {Status(status[bad[0]]).name}"
            )
        return slots


def open_mirror(store_uri: str, cache_folder: Path) -> Mirror:
    """Open the mirror of a sealed store; make it first if this machine has no sound one.

    StoreIncomplete if there is no sealed store, StoreCorrupt if it is damaged, StorageUnavailable
    if another process holds the lock for too long, or the disk is full.
    """
    store = open_store(store_uri)
    folder = cache_folder / store.root_digest
    with making(folder):
        verify_once(folder, folder, lambda: _make_sound(store, folder))
        names = _shapes(store.spec)
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    return Mirror(store.root_digest, store.root, store.spec, **arrays)


def find_superseded(cache_folder: Path, *, written_before: float) -> Iterator[tuple[Path, int]]:
    """List the mirrors whose store is gone or another one by now, and their sizes in bytes.

    Halves of mirrors, which killed processes leave, are listed too; mirrors younger than
    ``written_before``, in seconds since 1970, are not. A job keeps the pages that it has mapped.
    """
    for folder in sorted(cache_folder.glob("*")):
        digest = folder.name.removesuffix(BUILDING)
        if _DIGEST.fullmatch(digest) and folder.stat().st_mtime < written_before:
            if folder.name == digest and _copied_digest(folder) in (digest, None):
                continue
            yield folder, sum(path.stat().st_size for path in folder.iterdir())


def remove_mirror(folder: Path) -> bool:
    """Delete a mirror unless a process makes or checks it right now; return whether it was."""
    try:
        with making(folder.with_name(folder.name.removesuffix(BUILDING)), timeout_seconds=0.0):
            shutil.rmtree(folder)
    except StorageUnavailable:
        return False
    return True


def _copied_digest(folder: Path) -> str | None:
    """Return the root digest of the store that a mirror is of, or None if it does not say."""
    try:
        seal = find_seal(read_json(str(folder / RECORD_NAME))["store"])
    except (OSError, ValueError, TypeError, KeyError, PipelineError):
        return None  # record or store are damaged, or older than this version: nothing is known
    return "" if seal is None else seal.root_digest


def _make_sound(store: LogitStore, folder: Path) -> None:
    """Copy a store, unless the mirror that is there is right. The caller holds the lock."""
    if folder.exists():
        damaged = _find_damage(folder, _shapes(store.spec))
        if damaged is None:
            return
        log.warning("%s is damaged; copying %s again", damaged, store.root)
    _build(store, folder)


def _find_damage(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first file of a mirror that is not what the mirror's record says."""
    record = folder / RECORD_NAME
    try:
        recorded = dict(read_json(str(record)))
    except (OSError, ValueError, TypeError):
        return record
    for path in (folder / f"{name}.npy" for name in names):
        if not path.exists() or recorded.get(path.name) != sha256_of_file(path):
            return path
    return None


def _build(store: LogitStore, folder: Path) -> None:
    """Copy a store beside ``folder``, then give it that name. The caller holds the lock."""
    building = folder.with_name(folder.name + BUILDING)
    shutil.rmtree(building, ignore_errors=True)  # a process may have been killed here before
    with writing_to(str(folder)), ExitStack() as stack:
        building.mkdir()
        files = {}
        for name, (dtype, shape) in _shapes(store.spec).items():
            files[name] = stack.enter_context(open(building / f"{name}.npy", "xb"))
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        for number in range(store.spec.num_shards):
            grid = store.read_shard(number)
            for name, file in files.items():  # unlike a memory map, it raises if the disk is full
                file.write(getattr(grid, name).tobytes())
    digests = {path.name: sha256_of_file(path) for path in building.iterdir()}
    write_json(str(building / RECORD_NAME), digests | {"store": store.root})
    # A process that has mapped a damaged mirror keeps its pages until it ends.
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)


def _shapes(spec: StoreSpec) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    axes = (spec.num_rows, len(spec.view_indices))
    of_cells = {name: (dtype, (*axes, *cell)) for name, (dtype, cell) in cell_shapes(spec).items()}
    return of_cells | {"label": (np.dtype(np.int32), (spec.num_rows,))}
