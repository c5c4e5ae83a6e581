"""The report on a manifest: everything wrong or doubtful in it, counted and named.

Only good videos count towards duplicates, leaks and classes without videos: the others are in no
training step and no measurement.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeVar

from pipeline.dataset.manifest import Manifest, VideoRecord, by_name, without_label
from pipeline.errors import Status
from pipeline.text_table import csv_table, text_table

K = TypeVar("K")
V = TypeVar("V")

# Only logit stores have MISSING and BAD_LOGITS. Labels out of range are counted by label, since a
# video that is not there has the status NOT_FOUND whatever its label is.
COUNTED_OTHERWISE = {Status.GOOD, Status.MISSING, Status.BAD_LOGITS, Status.LABEL_OUT_OF_RANGE}
# note of a good video -> its line in the table
NOTED = {
    "size_changes": "size changes on the way",
    "damaged_pictures": "damaged pictures",
    "length_not_declared": "length not declared",
}
NUM_EXAMPLES = 3  # of a finding, in the table
MAX_BAD_LINES = 10  # of a status


@dataclass(frozen=True)
class IndexFinding:
    """One kind of finding, and the videos, groups or classes that it applies to.

    ``unknown`` says why nothing could be looked for, and what to do.
    """

    name: str
    found: tuple[str, ...]
    unknown: str = ""

    @property
    def row(self) -> tuple[str, str, str]:
        if self.unknown:
            return self.name, "not known", self.unknown
        more = ", ..." if len(self.found) > NUM_EXAMPLES else ""
        return self.name, str(len(self.found)), ", ".join(self.found[:NUM_EXAMPLES]) + more


@dataclass(frozen=True)
class IndexReport:
    """All kinds of findings of a manifest, including those that found nothing."""

    dataset: str
    num_classes: int
    num_videos: Mapping[str, int]  # by split
    num_good_videos: Mapping[str, int]
    without_label: str  # how many of the good videos, in words
    findings: tuple[IndexFinding, ...]
    bad: tuple[VideoRecord, ...]

    def as_text(self) -> str:
        rows = [("finding", "count", "first examples"), *(it.row for it in self.findings)]
        return f"{self.title}\n\n{text_table(rows, align='<><')}"

    @property
    def title(self) -> str:
        splits = [
            f"{split} {self.num_good_videos.get(split, 0)} good of {count}"
            for split, count in self.num_videos.items()
        ]
        videos = f"{', '.join(splits)}{self.without_label}"
        return f"{self.dataset}: {self.num_classes} classes; videos: {videos}"


def bad_csv(bad: Iterable[VideoRecord]) -> bytes:
    rows = ((v.split, v.sample_id, status_in_words(v.status), v.reason) for v in bad)
    return csv_table(("split", "sample_id", "status", "reason"), rows).encode()


def bad_lines(bad: Iterable[VideoRecord]) -> list[str]:
    """Return a few lines of each status: the first videos, and how many more."""
    shown = []
    for status, videos in _gathered((status_in_words(it.status), it) for it in bad).items():
        num_named = len(videos) if len(videos) <= MAX_BAD_LINES else MAX_BAD_LINES - 1
        shown += [
            f"bad video: {video.split} {video.sample_id}: {video.reason} [{status}]"
            for video in videos[:num_named]
        ]
        if len(videos) > num_named:
            shown.append(f"... and {len(videos) - num_named} more [{status}]")
    return shown


def index_report(
    manifest: Manifest, left_out: Iterable[tuple[str, str]] = (), *, groups: str = "auto"
) -> IndexReport:
    """Look for everything wrong or doubtful in a manifest of probed videos.

    ``left_out`` are files that are no videos of the data set, with the reason; ``groups`` is
    ``dataset.groups``, for what is said where groups are not known.
    """
    manifest = replace(manifest, records=by_name(manifest.records))
    num_classes = len(manifest.class_names)
    good = [record for record in manifest.records if record.good]
    bad = [record for record in manifest.records if not record.good]
    splits = ["train", "val", *({record.split for record in manifest.records} & {"test"})]
    omitted = _gathered((reason, path) for path, reason in left_out)
    return IndexReport(
        dataset=manifest.dataset,
        num_classes=num_classes,
        num_videos=Counter(record.split for record in manifest.records),
        num_good_videos=Counter(record.split for record in good),
        without_label=without_label(good),
        findings=(
            *_counted(
                _gathered((Status(record.status), record.sample_id) for record in bad),
                {s: status_in_words(s) for s in Status if s not in COUNTED_OTHERWISE},
            ),
            IndexFinding(
                f"label not in 0..{num_classes - 1}",
                tuple(
                    f"{record.sample_id} ({record.label})"
                    for record in manifest.records
                    if record.label is not None and not 0 <= record.label < num_classes
                ),
            ),
            _labels_unlike_folders(manifest),
            *_duplicates(good),
            *_leaks(good, splits, groups),
            *(_empty_classes(manifest.class_names, good, split) for split in splits),
            *_counted(
                _gathered((note, r.sample_id) for r in good for note in r.notes.split(",")), NOTED
            ),
            *_counted(omitted, {reason: f"left out: {reason}" for reason in sorted(omitted)}),
        ),
        bad=tuple(bad),
    )


def status_in_words(status: int) -> str:
    return Status(status).name.lower().replace("_", " ")


def _counted(found: Mapping[K, list[str]], names: Mapping[K, str]) -> list[IndexFinding]:
    return [IndexFinding(name, tuple(found.get(key, ()))) for key, name in names.items()]


def _labels_unlike_folders(manifest: Manifest) -> IndexFinding:
    """Find folders that have the name of one class and videos of another."""
    folders = {name.casefold() for name in manifest.class_names}
    num_videos: Counter[tuple[str, int]] = Counter()
    for record in manifest.records:
        folder = PurePosixPath(record.sample_id).parent.name
        label = record.label_number
        if folder.casefold() in folders and 0 <= label < len(manifest.class_names):
            num_videos[folder, label] += 1
    found = (
        f"{folder} has label {label} of {manifest.class_names[label]} ({count} videos)"
        for (folder, label), count in num_videos.items()
        if folder.casefold() != manifest.class_names[label].casefold()
    )
    return IndexFinding("class folder with another label", tuple(found))


def _duplicates(good: Iterable[VideoRecord]) -> Iterator[IndexFinding]:
    hashed = [record for record in good if record.sha256]
    across = (
        _as_equal([f"{record.split} {record.sample_id}" for record in copies])
        for copies in _gathered((record.sha256, record) for record in hashed).values()
        if len({record.split for record in copies}) > 1
    )
    yield IndexFinding("same bytes in two splits", tuple(across))
    by_split = _gathered(((r.split, r.sha256), r.sample_id) for r in hashed)
    within = (_as_equal(copies) for copies in by_split.values() if len(copies) > 1)
    yield IndexFinding("same bytes twice in a split", tuple(within))


def _as_equal(names: Sequence[str], count: int = 3) -> str:
    more = f" = ... ({len(names)} in all)" if len(names) > count else ""
    return " = ".join(names[:count]) + more


def _leaks(
    good: Sequence[VideoRecord], splits: Sequence[str], groups: str
) -> Iterator[IndexFinding]:
    """Find recordings with videos in two splits; "not known" where a split has no known group."""
    unknown = tuple(record.sample_id for record in good if not record.group)
    how = "dataset.groups is none" if groups == "none" else "set dataset.groups (docs/datasets.md)"
    there = {record.split for record in good}
    grouped = {record.split for record in good if record.group}
    splits_of = _gathered((record.group, record.split) for record in good if record.group)
    found = (
        f"{group} ({', '.join(f'{split} {count}' for split, count in Counter(there).items())})"
        for group, there in sorted(splits_of.items())
        if len(set(there)) > 1
    )
    why = how if len(grouped) < min(2, max(1, len(there))) else ""
    yield IndexFinding("group in two splits", tuple(found), why)
    for split in splits[1:]:
        videos = (record for record in good if record.split == split)
        leaked = tuple(v.sample_id for v in videos if "train" in splits_of.get(v.group, ()))
        why = how if {"train", split} & there - grouped else ""
        yield IndexFinding(f"{split} video of a group in train", leaked, why)
    yield IndexFinding("video of no known group", unknown)


def _empty_classes(
    class_names: Iterable[str], good: Iterable[VideoRecord], split: str
) -> IndexFinding:
    labels = {record.label for record in good if record.split == split}
    found = (name for label, name in enumerate(class_names) if label not in labels)
    return IndexFinding(f"class without good {split} videos", tuple(found))


def _gathered(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    gathered: defaultdict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        gathered[key].append(value)
    return gathered
