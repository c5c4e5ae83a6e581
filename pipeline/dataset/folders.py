"""The files below ``dataset.root``: their names, their spellings, and paths that lists may give."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.errors import printable
from pipeline.storage.files import join_uri, list_names, list_tree

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v",
    ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm",
    ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip


class Folders:
    """The names below a root; each folder is listed only once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._listed: dict[str, dict[str, str]] = {}

    def names(self) -> list[str]:
        return sorted(set(self._spellings("").values()))

    def files(self) -> list[str]:
        """List all files, by their paths below the root; links to folders are followed."""
        return list_tree(self.root, follow_links=True)

    def find(self, path: str) -> str | None:
        """Return ``path`` as it is spelt in storage, or None if it is not there.

        Case and the Unicode form of accents matter only between names that differ in nothing else:
        the videos of UCF101's ``HandstandPushups`` are called ``v_HandStandPushups_*``, and lists
        and copies mix the two; macOS writes ``é`` as two characters, most lists as one.
        """
        found = ""
        for part in path.split("/"):
            spellings = self._spellings(found)
            spelling = spellings.get(part) or spellings.get(folded(part))
            if spelling is None:
                return None
            found = f"{found}/{spelling}" if found else spelling
        return found

    def find_converted(self, path: str) -> str | None:
        """Find a video that has another suffix than its list says: many are converted."""
        stem = path.removesuffix(PurePosixPath(path).suffix)
        return next((uri for suffix in VIDEO_SUFFIXES if (uri := self.find(stem + suffix))), None)

    def _spellings(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            names = list_names(join_uri(self.root, folder) if folder else self.root)
            self._listed[folder] = {folded(n): n for n in names} | {n: n for n in names}
        return self._listed[folder]


def folded(name: str) -> str:
    """Return what all spellings of a name have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def path_below(root: str, path: str) -> str:
    """Return a path of a list relative to ``root``; ValueError if it could lead elsewhere."""
    below = path.removeprefix(root.rstrip("/") + "/")
    parts = [part for part in below.split("/") if part not in ("", ".")]
    if below.startswith(("/", "~")) or "://" in below or re.match(r"[A-Za-z]:[\\/]", below):
        raise ValueError(f"is not below dataset.root {root}")
    if ".." in parts or not parts:
        raise ValueError("leads out of dataset.root")
    if "\\" in below:
        raise ValueError("has a backslash; write paths with forward slashes, and rename such files")
    if "::" in below:
        raise ValueError("has '::', which reads as a chain of file systems; rename the file")
    if "\0" in below:
        raise ValueError("has a zero byte")
    if printable(below) != below:
        raise ValueError("is not UTF-8; rename the file")
    return "/".join(parts)


def is_video_name(name: str) -> bool:
    return why_no_video(name) == ""


def why_no_video(path: str) -> str:
    """Return the reason why a file in a folder is left out; empty for a video."""
    if any(part.startswith(".") for part in path.split("/")):
        return "hidden"
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return ""
    return f"{suffix} is no suffix of a video" if suffix else "no suffix"


def sample_id_of(path: str) -> str:
    """Return the sample_id of a video, from its path below the root."""
    pure = PurePosixPath(path)
    return printable(str(pure.with_suffix("") if pure.name else pure))


def shorten(names: Iterable[str], count: int = 5) -> str:
    """List the first few names, and say how many there are."""
    names = [printable(name) for name in names]
    first = ", ".join(names[:count]) or "nothing"
    return f"{first}, ... ({len(names)} in all)" if len(names) > count else first
