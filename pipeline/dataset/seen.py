"""The videos of a data set that the teacher was trained on, by ``teacher.seen``.

Its logits and its top-1 on them are those of training videos, whatever split they are in here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

from pipeline.dataset.folders import folded, is_video_name, sample_id_of, shorten
from pipeline.dataset.layouts import kinetics_name, ssv2_videos
from pipeline.dataset.lists import read_label_list, read_lines, read_table
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import DatasetError, printable
from pipeline.storage.files import exists, list_names

_HMDB_LIST = re.compile(r".*_test_split[1-3]\.txt")  # name and code; 1 is train


def seen_by_teacher(
    lists: Sequence[str], records: Sequence[VideoRecord], splits: Collection[str] = ("val", "test")
) -> list[str]:
    """Return a sentence for each of ``splits``: on how many of its videos the teacher was trained.

    Videos are the same if their path without suffix is, or else their file name, where that is
    unique in the data set. ``lists`` are URIs, in the form of any layout; ``records`` are all
    videos of the manifest.

    DatasetError if a list is not there, or cannot be read.
    """
    ids = {folded(_id_of(path)) for uri in lists for path in _paths(uri)}
    stems = {PurePosixPath(name).name for name in ids}
    names = [folded(record.sample_id) for record in records]
    num_alike = Counter(PurePosixPath(name).name for name in names)
    num_seen, num_good = Counter[str](), Counter[str]()
    for name, record in zip(names, records, strict=True):
        stem = PurePosixPath(name).name
        if record.good and record.split in splits and record.label is not None:
            num_good[record.split] += 1
            num_seen[record.split] += name in ids or (stem in stems and num_alike[stem] == 1)
    return [
        f"the teacher was trained on {num_seen[split]:,} of these {count:,} videos of {split} "
        "(teacher.seen)"
        for split, count in num_good.items()
        if lists
    ]


def _paths(uri: str) -> Iterator[str]:
    if not exists(uri):
        folder, _, name = uri.rpartition("/")
        there = shorten(list_names(folder))
        raise DatasetError(f"teacher.seen: there is no {name} in {folder}; there is {there}")
    if uri.endswith(".json"):
        yield from (str(video["id"]) for _, video in ssv2_videos(uri))
        return
    lines = read_lines(uri)
    if lines and "youtube_id" in lines[0][1].casefold():
        yield from (kinetics_name(where, row) for where, row in read_table(uri)[1])
        return
    for line in read_label_list(uri, "group", labelled=False)[0]:
        if not _HMDB_LIST.fullmatch(uri) or line.label == "1":
            yield line.path


def _id_of(path: str) -> str:
    path = str(PurePosixPath(path))
    return sample_id_of(path) if is_video_name(PurePosixPath(path).name) else printable(path)
