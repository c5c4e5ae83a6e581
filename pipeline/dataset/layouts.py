"""Readers of annotations, one for each ``dataset.layout``; ``docs/datasets.md`` describes them.

The official test lists of UCF101 and HMDB51 are read as ``val``. A csv or a folder ``test`` is read
if it is there and has labels. Labels follow the official numbers where there are any, and else the
sorted class names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.config.schema import DatasetConfig, Layout
from pipeline.dataset.classes import number_labels
from pipeline.dataset.folders import VIDEO_SUFFIXES, Folders, shorten, why_no_video
from pipeline.dataset.groups import group_column
from pipeline.dataset.lists import (
    Line,
    annotations_uri,
    find_lists,
    integer,
    name_of,
    read_json,
    read_label_list,
    read_lines,
    read_table,
)
from pipeline.errors import DatasetError, printable
from pipeline.storage.files import join_uri, list_names

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validate", "validation", "valid"),
    "test": ("test", "testing"),
}
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
DOWNLOADED_SUFFIXES = (".mp4", ".mkv", ".webm")  # that yt-dlp writes


@dataclass(frozen=True)
class Entry:
    """An annotated video, where it stands in its list, and where it may be: any path and suffix."""

    where: str
    split: str
    label: int
    paths: tuple[str, ...]  # the first one makes the sample_id, too
    suffixes: tuple[str, ...] = ("",)
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """What a layout's reader has found.

    ``whole``: no list and no folder says which videos are ``val``. ``left_out`` are files that are
    no annotated videos, with the reason.
    """

    class_names: tuple[str, ...]  # in label order
    entries: Sequence[Entry]
    notes: Sequence[str] = ()
    left_out: Sequence[tuple[str, str]] = ()
    whole: bool = False


def _read_ucf101(dataset: DatasetConfig, _folders: Folders) -> Listing:
    annotations, number = annotations_uri(dataset), dataset.split_number
    classes = []
    for where, text in read_lines(join_uri(annotations, "classInd.txt")):
        ordinal, _, class_name = text.partition(" ")
        classes.append((class_name, integer(ordinal, where)))
    class_names = _in_label_order(classes, first=1, where="classInd.txt")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    entries = []
    for split, name in (("train", "trainlist"), ("val", "testlist")):
        for where, text in read_lines(join_uri(annotations, f"{name}{number:02d}.txt")):
            path, _, official = text.partition(" ")  # a label, from 1, in training lists only
            folder = path.partition("/")[0]
            if not official and folder.casefold() not in labels:
                raise DatasetError(f"{where}: {folder!r} is not in classInd.txt")
            label = integer(official, where) - 1 if official else labels[folder.casefold()]
            entries.append(Entry(where, split, label, (path,)))
    return Listing(class_names, entries)


def _read_hmdb51(dataset: DatasetConfig, _folders: Folders) -> Listing:
    annotations, ending = annotations_uri(dataset), f"_test_split{dataset.split_number}.txt"
    names = list_names(annotations)
    class_names = tuple(sorted(n.removesuffix(ending) for n in names if n.endswith(ending)))
    if not class_names:
        raise DatasetError(
            f"dataset.annotations {annotations} has no <class>{ending}; there is {shorten(names)}"
        )
    entries = []
    for label, class_name in enumerate(class_names):
        for where, text in read_lines(join_uri(annotations, class_name + ending)):
            video, _, code = text.rpartition(" ")
            if code not in ("0", "1", "2"):
                raise DatasetError(f"{where}: the code is {code!r}, not 0, 1 or 2")
            if code != "0":
                split = "train" if code == "1" else "val"
                entries.append(Entry(where, split, label, (f"{class_name}/{video}",)))
    return Listing(class_names, entries)


def _read_path_label_csv(dataset: DatasetConfig, _folders: Folders) -> Listing:
    lines: list[tuple[str, Line]] = []
    notes = []
    for split, uri in find_lists(dataset, SPLIT_NAMES, (".csv", ".tsv", ".txt")).items():
        found, note = read_label_list(uri, group_column(dataset.groups), labelled=split != "test")
        if split == "test" and found and not any(line.label for line in found):
            found, note = [], f"{name_of(uri)}: has no labels and is left out"
        lines += [(split, line) for line in found]
        notes.append(note)
    for _, line in lines:
        if not line.label:
            raise DatasetError(f"{line.where}: {line.path!r} has no label")
    if not lines:
        return Listing((), ())
    class_names, labels, more = number_labels([line for _, line in lines], dataset)
    entries = [
        Entry(line.where, split, label, (line.path,), _suffixes(line.path), line.group)
        for (split, line), label in zip(lines, labels, strict=True)
    ]
    return Listing(class_names, entries, [*notes, *more])


def _suffixes(path: str) -> tuple[str, ...]:
    return ("",) if PurePosixPath(path).suffix else ("", *VIDEO_SUFFIXES)


def _read_kinetics_csv(dataset: DatasetConfig, _folders: Folders) -> Listing:
    rows, notes = [], []
    for split, uri in find_lists(dataset, SPLIT_NAMES, (".csv",)).items():
        header, found = read_table(uri)
        if split == "test" and not any(row.get("label") for _, row in found):
            notes.append(f"{name_of(uri)}: has no labels and is left out")
            continue
        if missing := sorted(set(KINETICS_COLUMNS) - set(header)):
            raise DatasetError(f"{uri} has no column {', '.join(missing)}, but {header}")
        for where, row in found:
            if not row["label"]:
                raise DatasetError(f"{where} has no label")
            rows.append((split, where, row))
    class_names = tuple(sorted({row["label"] for _, _, row in rows}))
    labels = {name: label for label, name in enumerate(class_names)}
    column = group_column(dataset.groups).casefold()
    entries = [
        Entry(
            where,
            split,
            labels[row["label"]],
            _kinetics_paths(split, where, row),
            DOWNLOADED_SUFFIXES,
            row.get(column, ""),
        )
        for split, where, row in rows
    ]
    return Listing(class_names, entries, notes)


def _kinetics_paths(split: str, where: str, row: Mapping[str, str]) -> tuple[str, ...]:
    """Name where downloaders put a video: by split and class, by split, or by class."""
    if row["split"] not in SPLIT_NAMES[split]:
        raise DatasetError(f"{where}: split {row['split']!r} in the list of split {split!r}")
    name = kinetics_name(where, row)
    classes = dict.fromkeys((row["label"], row["label"].replace(" ", "_")))  # as some write it
    return (
        *(f"{folder}/{label}/{name}" for folder in SPLIT_NAMES[split] for label in classes),
        *(f"{folder}/{name}" for folder in SPLIT_NAMES[split]),
        *(f"{label}/{name}" for label in classes),
    )


def kinetics_name(where: str, row: Mapping[str, str]) -> str:
    start, end = (integer(row[column], where) for column in ("time_start", "time_end"))
    return f"{row['youtube_id']}_{start:06d}_{end:06d}"


def _read_ssv2_json(dataset: DatasetConfig, _folders: Folders) -> Listing:
    wanted = {"labels": ("labels",), "train": SPLIT_NAMES["train"], "val": SPLIT_NAMES["val"]}
    lists = find_lists(dataset, wanted, (".json",))
    named = lists.pop("labels")
    classes = [(name, integer(str(label), named)) for name, label in read_json(named, dict).items()]
    class_names = _in_label_order(classes, first=0, where=name_of(named))
    labels = dict(classes)
    entries = []
    for split, uri in lists.items():
        for where, video in ssv2_videos(uri):
            template = re.sub(r"[][]", "", video["template"])
            if template not in labels:
                raise DatasetError(f"{where}: {template!r} is not in {name_of(named)}")
            suffixes = (".webm", ".mp4", ".mkv")
            entries.append(Entry(where, split, labels[template], (f"{video['id']}",), suffixes))
    return Listing(class_names, entries)


def ssv2_videos(uri: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the videos of a list of Something-Something, and where each stands."""
    for number, video in enumerate(read_json(uri, list), start=1):
        where = f"{name_of(uri)}, entry {number}"
        if not isinstance(video, dict) or not {"id", "template"} <= video.keys():
            raise DatasetError(f"{where} has no id or no template")
        yield where, video


def _read_folders(dataset: DatasetConfig, folders: Folders) -> Listing:
    files = folders.files()
    reasons = {path: why_no_video(path) for path in files}
    videos = [path for path in files if not reasons[path]]
    split_of = _split_folders(dataset, {path.partition("/")[0] for path in videos if "/" in path})
    entries: list[tuple[str, str, str]] = []  # split, class, path
    for path in videos:
        top, *below = path.split("/")
        split = split_of.get(top, "train")
        if split_of and top not in split_of:
            reasons[path] = f"beside {' and '.join(sorted(split_of))}"
            continue
        folder, *deeper = below if split_of else [top, *below]
        if deeper:
            entries.append((split, folder, path))
        elif split == "test":
            reasons[path] = "a test video without a class folder"
        else:
            raise DatasetError(f"{path} is a video outside the class folders. Move it into one.")
    if not entries:
        raise DatasetError(
            f"dataset.root {dataset.root} has no folders of videos ({', '.join(VIDEO_SUFFIXES)});"
            f" there is {shorten(folders.names())}. Put the videos of a class into its folder."
            f" Left out: {shorten(f'{path} ({reason})' for path, reason in reasons.items())}"
        )
    class_names = tuple(sorted({name for _, name, _ in entries}))
    labels = {name: label for label, name in enumerate(class_names)}
    return Listing(
        tuple(printable(name) for name in class_names),
        [Entry(dataset.root, split, labels[name], (path,)) for split, name, path in entries],
        left_out=[(path, reason) for path, reason in reasons.items() if reason],
        whole=not split_of,
    )


def _split_folders(dataset: DatasetConfig, tops: set[str]) -> dict[str, str]:
    """Return the split of each folder that is one of a split; none if folders are of classes."""
    spellings = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    found = {top: spellings[top.casefold()] for top in tops if top.casefold() in spellings}
    splits = set(found.values())
    if len(splits) < 2 and len(found) < len(tops):
        return {}  # a class may be called "train"
    there = ", ".join(sorted(found))
    if found and "train" not in splits:
        raise DatasetError(f"dataset.root {dataset.root} has {there} and no videos below train")
    if found and "val" not in splits and dataset.val_fraction is None:
        raise DatasetError(
            f"dataset.root {dataset.root} has {there}, and no videos below val. Name the folder of"
            " val so, or set dataset.val_fraction (0.1, say), which cuts val off train by group."
        )
    return found


def _in_label_order(
    classes: Collection[tuple[str, int]], *, first: int, where: str
) -> tuple[str, ...]:
    names = {label: name for name, label in classes}
    if sorted(names) != list(range(first, first + len(classes))):
        raise DatasetError(
            f"{where}: labels must be {first}..{first + len(classes) - 1}, each once"
        )
    return tuple(names[label] for label in sorted(names))


READERS: Mapping[Layout, Callable[[DatasetConfig, Folders], Listing]] = {
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "folders": _read_folders,
    "path_label_csv": _read_path_label_csv,
    "kinetics_csv": _read_kinetics_csv,
    "ssv2_json": _read_ssv2_json,
}
