"""The journal of a store: its finished units, known by the names of their fragments.

A fragment's name derives from its unit alone, so a unit that is retried or run twice meets its own
file. The list of names says which units need not be run again, and nothing else: every fragment is
verified when it is gathered.
"""

from __future__ import annotations

import re

from pipeline.storage.files import join_uri, list_names

JOURNAL_NAME = "journal"
# A fragment, or the cells that a unit of a logit store inherits.
_FILE = re.compile(rf"{JOURNAL_NAME}/(unit|inherited)-\d{{6,}}\.parquet")
_FRAGMENT = re.compile(r"unit-(\d{6,})\.parquet")


def finished_units(root: str) -> set[int]:
    names = list_names(join_uri(root, JOURNAL_NAME))
    return {int(match[1]) for name in names if (match := _FRAGMENT.fullmatch(name))}


def is_journalled(name: str) -> bool:
    """Return whether a file below the root of a store is of the journal, whatever its unit."""
    return _FILE.fullmatch(name) is not None


def fragment_footer(fingerprint: str, unit: int, content_sha256: str) -> dict[bytes, bytes]:
    """Return what the footer of a fragment says; ``content_sha256`` is of its decoded values."""
    return {
        b"fingerprint": fingerprint.encode(),
        b"unit": str(unit).encode(),
        b"content_sha256": content_sha256.encode(),
    }


def fragment_name(unit: int) -> str:
    """Return the name of a unit's fragment, below the root of the store."""
    return f"{JOURNAL_NAME}/unit-{unit:06d}.parquet"
