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
from pipeline.dataset.folders import VIDEO_SUFFIXES, Folders, path_below, shorten, why_no_video
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
LIST_SUFFIXES = (".csv", ".tsv", ".txt")
DOWNLOADED_SUFFIXES = (".mp4", ".mkv", ".webm")  # yt-dlp writes these


@dataclass(frozen=True)
class Entry:
    """An annotated video: its line in the list, and the paths and suffixes that it may have."""

    where: str
    split: str
    label: int | None
    paths: tuple[str, ...]  # the first one makes the sample_id, too
    suffixes: tuple[str, ...] = ("",)
    group: str = ""


@dataclass(frozen=True)
class Listing:
    """The result of a layout's reader.

    ``whole`` is true if neither lists nor folders say which videos are ``val``. ``left_out`` are
    files that are no annotated videos, with the reason.
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
    for split, uri in find_lists(dataset, SPLIT_NAMES, LIST_SUFFIXES).items():
        found, note = read_label_list(uri, group_column(dataset.groups), labelled=split != "test")
        if split == "test" and found and not any(line.label for line in found):
            found, note = [], f"{name_of(uri)}: has no labels and is left out"
        lines += [(split, line) for line in found]
        notes.append(note)
    labelled = [line for split, line in lines if _labelled(split, line.where, line.label)]
    if not labelled:
        return Listing((), ())
    class_names, numbers, more = number_labels(labelled, dataset)
    label_of = dict(zip((line.where for line in labelled), numbers, strict=True))
    entries = [_entry(line, split, label_of.get(line.where)) for split, line in lines]
    return Listing(class_names, entries, [*notes, *more])


def _entry(line: Line, split: str, label: int | None) -> Entry:
    suffixes = ("",) if PurePosixPath(line.path).suffix else ("", *VIDEO_SUFFIXES)
    return Entry(line.where, split, label, (line.path,), suffixes, line.group)


def _labelled(split: str, where: str, label: str) -> bool:
    """Return whether a line has a label; only in train it may have none."""
    if not label and split != "train":
        raise DatasetError(
            f"{where}: a video of {split} has no label; only those of train may lack one"
        )
    return bool(label)


def _read_kinetics_csv(dataset: DatasetConfig, _folders: Folders) -> Listing:
    rows, notes = [], []
    for split, uri in find_lists(dataset, SPLIT_NAMES, (".csv",)).items():
        header, found = read_table(uri)
        if split == "test" and not any(row.get("label") for _, row in found):
            notes.append(f"{name_of(uri)}: has no labels and is left out")
            continue
        if missing := sorted(set(KINETICS_COLUMNS) - set(header)):
            raise DatasetError(f"{uri} has no column {', '.join(missing)}, but {header}")
        rows += [(split, where, row) for where, row in found]
    labelled = {row["label"] for split, where, row in rows if _labelled(split, where, row["label"])}
    class_names = tuple(sorted(labelled))
    labels = {name: label for label, name in enumerate(class_names)}
    column = group_column(dataset.groups).casefold()
    entries = [
        Entry(
            where,
            split,
            labels.get(row["label"]),
            _kinetics_paths(split, where, row),
            DOWNLOADED_SUFFIXES,
            row.get(column, ""),
        )
        for split, where, row in rows
    ]
    return Listing(class_names, entries, notes)


def _kinetics_paths(split: str, where: str, row: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths that downloaders use: by split and class, by split, or by class."""
    if row["split"] not in SPLIT_NAMES[split]:
        raise DatasetError(f"{where}: split {row['split']!r} in the list of split {split!r}")
    name, folders = kinetics_name(where, row), SPLIT_NAMES[split]
    # Some write a class with underscores; unlabelled videos have none.
    classes = [*filter(None, dict.fromkeys((row["label"], row["label"].replace(" ", "_"))))]
    both = (f"{folder}/{label}" for folder in folders for label in classes)
    return tuple(f"{folder}/{name}" for folder in (*both, *folders, *classes))


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
            if _labelled(split, where, template) and template not in labels:
                raise DatasetError(f"{where}: {template!r} is not in {name_of(named)}")
            suffixes = (".webm", ".mp4", ".mkv")
            entries.append(Entry(where, split, labels.get(template), (f"{video['id']}",), suffixes))
    return Listing(class_names, entries)


def ssv2_videos(uri: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the videos of a list of Something-Something, and where each stands."""
    for number, video in enumerate(read_json(uri, list), start=1):
        where = f"{name_of(uri)}, entry {number}"
        if not isinstance(video, dict) or not {"id", "template"} <= video.keys():
            raise DatasetError(f"{where} has no id or no template")
        yield where, video


def _read_folders(dataset: DatasetConfig, folders: Folders) -> Listing:
    apart = unlabelled_folder(dataset)
    files = [path for path in folders.files() if not apart or not path.startswith(apart)]
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
    """Map each split folder to its split; empty if the top folders are classes."""
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


def unlabelled_folder(dataset: DatasetConfig) -> str | None:
    """Return ``dataset.unlabelled`` relative to the root, if it is a folder."""
    if dataset.unlabelled is None or dataset.unlabelled.endswith(LIST_SUFFIXES):
        return None
    uri, root = dataset.unlabelled.rstrip("/"), dataset.root.rstrip("/")
    try:
        return "" if uri == root else f"{path_below(root, uri)}/"
    except ValueError as error:
        raise DatasetError(
            f"dataset.unlabelled: {uri} {error}; move it there, or link to it (ln -s) from there"
        ) from error


def read_unlabelled(dataset: DatasetConfig, folders: Folders) -> Listing:
    """Read ``dataset.unlabelled``; some of its videos may have a label elsewhere."""
    if dataset.unlabelled is None:
        return Listing((), ())
    folder, notes, reasons = unlabelled_folder(dataset), [], dict[str, str]()
    if folder is None:
        column = group_column(dataset.groups)
        lines, note = read_label_list(dataset.unlabelled, column, labelled=False)
        notes = [f"{note}; labels in it are not used"]
        entries = [_entry(line, "train", None) for line in lines]
    else:
        reasons = {path: why_no_video(path) for path in folders.files() if path.startswith(folder)}
        where = dataset.unlabelled
        entries = [Entry(where, "train", None, (path,)) for path, why in reasons.items() if not why]
    if not entries:
        raise DatasetError(f"dataset.unlabelled: there is no video in {dataset.unlabelled}")
    return Listing((), entries, notes, [(path, why) for path, why in reasons.items() if why])


READERS: Mapping[Layout, Callable[[DatasetConfig, Folders], Listing]] = {
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "folders": _read_folders,
    "path_label_csv": _read_path_label_csv,
    "kinetics_csv": _read_kinetics_csv,
    "ssv2_json": _read_ssv2_json,
}
