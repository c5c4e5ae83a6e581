"""The report on a manifest: everything wrong or doubtful in it, counted and named.

Only good videos count towards duplicates, leaks and classes without videos: the others are in no
training step and no measurement.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import PurePosixPath

from pipeline.dataset.manifest import Manifest, VideoRecord
from pipeline.errors import Status
from pipeline.text_table import text_table

# Only logit stores have MISSING and BAD_LOGITS. Labels out of range are counted by label, since a
# video that is not there has the status NOT_FOUND whatever its label is.
COUNTED_OTHERWISE = {Status.GOOD, Status.MISSING, Status.BAD_LOGITS, Status.LABEL_OUT_OF_RANGE}
# A note of a good video, and what the table says.
NOTED = {
    "size_changes": "size_changes on the way",
    "damaged_pictures": "damaged pictures",
    "length_not_declared": "length not declared",
}


@dataclass(frozen=True)
class IndexFinding:
    """One kind of finding, and the videos, groups or classes that it applies to."""

    name: str
    found: tuple[str, ...]


@dataclass(frozen=True)
class BadVideo:
    """A video that is never trained on or measured, and why."""

    split: str
    sample_id: str
    status: str
    reason: str


@dataclass(frozen=True)
class IndexReport:
    """All kinds of findings of a manifest, also those that apply to nothing."""

    dataset: str
    num_classes: int
    num_videos: Mapping[str, int]  # by split
    num_good_videos: Mapping[str, int]
    findings: tuple[IndexFinding, ...]
    bad: tuple[BadVideo, ...]

    def as_text(self, num_examples: int = 3) -> str:
        rows = [("finding", "count", "first examples")]
        for finding in self.findings:
            examples = ", ".join(finding.found[:num_examples])
            more = ", ..." if len(finding.found) > num_examples else ""
            rows.append((finding.name, str(len(finding.found)), examples + more))
        splits = [
            f"{split} {self.num_good_videos.get(split, 0)} good of {count}"
            for split, count in self.num_videos.items()
        ]
        title = f"{self.dataset}: {self.num_classes} classes; videos: {', '.join(splits)}"
        return f"{title}\n\n{text_table(rows, align='<><')}"

    def bad_rows(self) -> list[tuple[str, ...]]:
        """Return the bad videos as rows of text, a header first."""
        header = tuple(field.name for field in fields(BadVideo))
        return [header, *(astuple(video) for video in self.bad)]


def index_report(manifest: Manifest) -> IndexReport:
    good = [record for record in manifest.records if record.good]
    bad = [record for record in manifest.records if not record.good]
    return IndexReport(
        dataset=manifest.dataset,
        num_classes=len(manifest.class_names),
        num_videos=Counter(record.split for record in manifest.records),
        num_good_videos=Counter(record.split for record in good),
        findings=(
            *_bad_by_status(bad),
            _labels_outside(manifest),
            _labels_unlike_folders(manifest),
            _duplicates_across_splits(good),
            _duplicates_within_splits(good),
            _leaking_groups(good),
            _leaked_videos(good),
            _empty_classes(manifest.class_names, good, "train"),
            _empty_classes(manifest.class_names, good, "val"),
            *_noted(good),
        ),
        bad=tuple(
            BadVideo(record.split, record.sample_id, _words(record.status), record.reason)
            for record in bad
        ),
    )


def _words(status: int) -> str:
    return Status(status).name.lower().replace("_", " ")


def _bad_by_status(bad: Iterable[VideoRecord]) -> list[IndexFinding]:
    videos: defaultdict[int, list[str]] = defaultdict(list)
    for record in bad:
        videos[record.status].append(record.sample_id)
    return [
        IndexFinding(_words(status), tuple(videos[status]))
        for status in Status
        if status not in COUNTED_OTHERWISE
    ]


def _noted(good: Iterable[VideoRecord]) -> list[IndexFinding]:
    videos: defaultdict[str, list[str]] = defaultdict(list)
    for record in good:
        for note in filter(None, record.notes.split(",")):
            videos[note].append(record.sample_id)
    return [IndexFinding(words, tuple(videos[note])) for note, words in NOTED.items()]


def _labels_outside(manifest: Manifest) -> IndexFinding:
    num_classes = len(manifest.class_names)
    found = (
        f"{record.sample_id} ({record.label})"
        for record in manifest.records
        if not 0 <= record.label < num_classes
    )
    return IndexFinding(f"label not in 0..{num_classes - 1}", tuple(found))


def _labels_unlike_folders(manifest: Manifest) -> IndexFinding:
    """Compare each label with the class folder, which all layouts have but flat ones."""
    num_videos: Counter[tuple[str, int]] = Counter()
    for record in manifest.records:
        folder = PurePosixPath(record.sample_id).parent.name
        if folder and 0 <= record.label < len(manifest.class_names):
            num_videos[folder, record.label] += 1
    found = (
        f"{folder} has label {label} of {manifest.class_names[label]} ({count} videos)"
        for (folder, label), count in num_videos.items()
        if folder.casefold() != manifest.class_names[label].casefold()
    )
    return IndexFinding("class folder with another label", tuple(found))


def _duplicates_across_splits(good: Iterable[VideoRecord]) -> IndexFinding:
    found = (
        " = ".join(f"{record.split} {record.sample_id}" for record in copies)
        for copies in _gathered(good, "sha256").values()
        if len({record.split for record in copies}) > 1
    )
    return IndexFinding("same bytes in two splits", tuple(found))


def _duplicates_within_splits(good: Iterable[VideoRecord]) -> IndexFinding:
    by_split = _gathered(good, "split").values()
    found = (
        " = ".join(record.sample_id for record in copies)
        for records in by_split
        for copies in _gathered(records, "sha256").values()
        if len(copies) > 1
    )
    return IndexFinding("same bytes twice in a split", tuple(found))


def _leaking_groups(good: Iterable[VideoRecord]) -> IndexFinding:
    counts = {
        group: Counter(record.split for record in videos)
        for group, videos in _gathered(good, "group").items()
    }
    found = (
        f"{group} ({', '.join(f'{split} {count}' for split, count in by_split.items())})"
        for group, by_split in sorted(counts.items())
        if len(by_split) > 1
    )
    return IndexFinding("group in two splits", tuple(found))


def _leaked_videos(good: Iterable[VideoRecord]) -> IndexFinding:
    by_split = _gathered(good, "split")
    known = {record.group for record in by_split.get("train", ())} - {""}
    found = (record.sample_id for record in by_split.get("val", ()) if record.group in known)
    return IndexFinding("val video of a group in train", tuple(found))


def _empty_classes(
    class_names: Iterable[str], good: Iterable[VideoRecord], split: str
) -> IndexFinding:
    labels = {record.label for record in good if record.split == split}
    found = (name for label, name in enumerate(class_names) if label not in labels)
    return IndexFinding(f"class without good {split} videos", tuple(found))


def _gathered(records: Iterable[VideoRecord], attribute: str) -> dict[str, list[VideoRecord]]:
    """Gather records by the value of an attribute; those without a value are left out."""
    gathered: defaultdict[str, list[VideoRecord]] = defaultdict(list)
    for record in records:
        if value := getattr(record, attribute):
            gathered[value].append(record)
    return gathered
