"""The videos of a data set that the teacher was trained on, by ``teacher.seen``.

Its logits and its top-1 on them are those of training videos, whatever split they are in here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from pipeline.dataset.folders import folded, is_video_name, sample_id_of
from pipeline.dataset.label_lists import read_label_list
from pipeline.dataset.lists import read_lines
from pipeline.dataset.manifest import VideoRecord

_HMDB_LIST = re.compile(r".*_test_split[1-3]\.txt")  # name and code; 1 is train


def seen_by_teacher(lists: Sequence[str], records: Sequence[VideoRecord]) -> list[str]:
    """Say for each split but train how many of its good videos the teacher was trained on.

    Videos are the same if their path without suffix is, or else their file name, where that is
    unique in the data set.

    Args:
        lists: URIs of lists of the teacher's training videos: a path a line, or path and label.
        records: the videos of the manifest.

    Raises:
        DatasetError: if a list is not there, or cannot be read.
    """
    ids = {folded(sample_id_of(path)) for uri in lists for path in _paths(uri)}
    stems = {PurePosixPath(name).name for name in ids}
    names = [folded(record.sample_id) for record in records]
    num_alike = Counter(PurePosixPath(name).name for name in names)
    num_seen, num_good = Counter[str](), Counter[str]()
    for name, record in zip(names, records, strict=True):
        stem = PurePosixPath(name).name
        if record.good and record.split != "train":
            num_good[record.split] += 1
            num_seen[record.split] += name in ids or (stem in stems and num_alike[stem] == 1)
    return [
        f"the teacher was trained on {num_seen[split]:,} of these {count:,} videos of {split} "
        "(teacher.seen)"
        for split, count in num_good.items()
        if lists
    ]


def _paths(uri: str) -> Iterator[str]:
    lines = [text for _, text in read_lines(uri)]
    if all(is_video_name(text) for text in lines):
        yield from lines
        return
    for line in read_label_list(uri, "group", optional=False)[0]:
        if not _HMDB_LIST.fullmatch(uri) or line.label == "1":
            yield line.path
