"""Files of frames on this machine: local ones where they are, others as whole verified copies.

A file is copied when its first frame is wanted, by one process under a lock, and compared with the
seal before it gets its name, which is its digest. A copy is not hashed again at every start, as
the mirror of the logit store is (hashing K400's frames takes minutes): what is audited is hashed,
video by video.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

from pipeline.storage.files import is_local, write_bytes
from pipeline.storage.locks import MIRRORS, making
from pipeline.storage.sealed.files import read_verified
from pipeline.storage.sealed.seal import Seal, read_seal, sealed_entry


def local_file(file_uri: str) -> Path:
    """Return where a file of a frame store is on this machine.

    Raises:
        FileNotFoundError: if its store is not sealed.
        StoreCorrupt: if the file or its seal is damaged.
        StorageUnavailable: if another process holds the lock for too long.

    """
    return Path(file_uri) if is_local(file_uri) else _mirrored(file_uri)


@cache
def _mirrored(file_uri: str) -> Path:
    root, _, name = file_uri.rpartition("/")
    entry = sealed_entry(root, _seal_of(root), name)
    path = MIRRORS / "frames" / f"{entry.sha256}.arrow"
    with making(path):
        if not path.exists() or path.stat().st_size != entry.num_bytes:
            write_bytes(str(path), read_verified(root, entry))
    return path


@lru_cache(maxsize=1)
def _seal_of(root: str) -> Seal:
    return read_seal(root)
