"""The garbage of a frame store. Its journal holds every JPEG once more."""

from __future__ import annotations

from pipeline.storage.files import list_files
from pipeline.storage.sealed.garbage import Garbage, judge
from pipeline.storage.sealed.identity import IDENTITY_NAME
from pipeline.storage.sealed.journal import JOURNAL_NAME

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
