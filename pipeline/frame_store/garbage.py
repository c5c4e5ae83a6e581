"""The garbage of a frame store. Its journal holds every JPEG once more."""

from __future__ import annotations

from pipeline.frame_store.layout import MANIFEST_NAME, FrameSpec, file_name
from pipeline.frame_store.reader import find_spec
from pipeline.sealed.garbage import Garbage, Names, judge
from pipeline.sealed.identity import IDENTITY_NAME
from pipeline.sealed.journal import JOURNAL_NAME, fragment_name
from pipeline.sealed.seal import SEAL_NAME
from pipeline.storage import list_files


def names_of(spec: FrameSpec) -> Names:
    """Return every name that a file of a frame store may have."""
    files = (file_name(number) for number in range(spec.num_files))
    return Names(
        content=frozenset((IDENTITY_NAME, MANIFEST_NAME, SEAL_NAME, *files)),
        journal=frozenset(fragment_name(unit) for unit in range(spec.num_units)),
        folders=(f"{JOURNAL_NAME}/",),
    )


def find_garbage(root: str, *, written_before: float, journals: bool = False) -> list[Garbage]:
    """List what may be removed of a frame store; without one, nothing but temporary files.

    Args:
        root: of the store.
        written_before: in seconds since 1970; what is younger is not touched.
        journals: include the journal, if the store was sealed before that.

    Raises:
        FingerprintMismatch, StoreCorrupt: if it is one of another version, or damaged.

    """
    spec = find_spec(root)
    names = Names() if spec is None else names_of(spec)
    files = list_files(root)
    return list(judge(root, files, names, written_before=written_before, journals=journals))
