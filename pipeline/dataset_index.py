"""Read what a data set's own annotations say, and find the videos that they name.

==================  ==============================================  ===============================
``dataset.layout``  ``dataset.annotations`` is a folder with        a video below ``dataset.root``
==================  ==============================================  ===============================
``ucf101``          ``classInd``, ``trainlist0N``, ``testlist0N``   ``<class>/<video>``
``hmdb51``          ``<class>_test_splitN``; code 0 is "not used"   ``<class>/<video>``
``path_label_csv``  ``train`` and ``val``: ``path,label``           as the path says
``kinetics_csv``    ``train`` and ``val`` or ``validate``           see ``_kinetics_paths``
``ssv2_json``       ``train``, ``validation`` and ``labels``        ``<id>.webm`` or ``<id>.mp4``
``folders``         (none)                                          ``<class>/<video>`` or
                                                                    ``<train|val>/<class>/<video>``
==================  ==============================================  ===============================

N is ``dataset.split_number``. The official test lists of UCF101 and HMDB51 become the split
``val``. Names of csv and json lists may have a prefix (``hmdb51_train.csv``); where several have,
the one that starts with ``dataset.name`` is meant. A csv or a folder ``test`` is read if it is
there; the test list of Something-Something has no labels and is not.

``folders`` is also for data sets without official lists, such as UCF50: without folders ``train``
and ``val``, a fixed share of the groups becomes ``val``. Labels follow the official numbers where
there are any, and else the sorted class names.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.config import DatasetConfig, Layout
from pipeline.errors import DatasetError, Status
from pipeline.manifest import VideoRecord, build_manifest
from pipeline.storage import join_uri, list_names, read_bytes

VAL_SHARE = 0.2  # of the groups, where layout "folders" has no split of its own
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
VIDEO_SUFFIXES = (
    ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"
)  # fmt: skip
UCF_STEM = re.compile(r".+_(g\d+)_c\d+")
HMDB_STEM = re.compile(r"(.+)_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")
KINETICS_STEM = re.compile(r"(.{11})_\d{6}_\d{6}")


@dataclass(frozen=True)
class Annotated:
    """Classes in label order; annotated videos in manifest order, URIs relative to the root."""

    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]


@dataclass(frozen=True)
class _Entry:
    """An annotated video and where it may be; the first path also makes its sample_id.

    ``where`` is the list and the line, in words for a message.
    """

    where: str
    split: str
    label: int
    paths: tuple[str, ...]


_Lists = tuple[tuple[str, ...], list[_Entry]]  # class names in label order, and the videos


class _Folders:
    """The names below a root; a folder is listed once, however many of its videos are asked for."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._listed: dict[str, dict[str, str]] = {}

    def names(self, folder: str = "") -> list[str]:
        """List a folder."""
        return sorted(set(self._spellings(folder).values()))

    def find(self, path: str) -> str | None:
        """Return ``path`` as it is spelt in storage, or None if it is not there.

        Case matters only between names that differ in nothing else: the videos of UCF101's
        ``HandstandPushups`` are called ``v_HandStandPushups_*``, and lists and copies mix the two.
        """
        found = ""
        for part in path.split("/"):
            spellings = self._spellings(found)
            spelling = spellings.get(part) or spellings.get(part.casefold())
            if spelling is None:
                return None
            found = f"{found}/{spelling}" if found else spelling
        return found

    def _spellings(self, folder: str) -> dict[str, str]:
        if folder not in self._listed:
            names = list_names(join_uri(self._root, folder) if folder else self._root)
            self._listed[folder] = {n.casefold(): n for n in names} | {n: n for n in names}
        return self._listed[folder]


def read_annotations(dataset: DatasetConfig) -> Annotated:
    """Read the annotations and look for the videos, without opening any.

    A video that is not there, or whose label is no class, is a record that says so.

    Raises:
        DatasetError: if the annotations are not there or make no sense, if they have another
            number of classes, list a video twice, or name no video that is there.

    """
    folders = _Folders(dataset.root)
    class_names, entries = _READERS[dataset.layout](dataset, folders)
    if len(class_names) != dataset.num_classes:
        raise DatasetError(
            f"dataset.num_classes is {dataset.num_classes}, and the annotations of {dataset.name}"
            f" have {len(class_names)} classes: {_some(class_names)}. Correct one of the two."
        )
    records = tuple(_record(entry, folders, dataset.num_classes) for entry in entries)
    if all(record.status == Status.NOT_FOUND for record in records):
        raise DatasetError(
            f"none of the {len(records)} annotated videos is below dataset.root {dataset.root}:"
            f" looked for {_some([record.uri for record in records])}, and there is"
            f" {_some(folders.names())}. Correct dataset.root or dataset.layout."
        )
    # In the manifest's order, and with its check, which should not wait for all videos' probing.
    return Annotated(class_names, build_manifest(dataset.name, class_names, records).records)


def _record(entry: _Entry, folders: _Folders, num_classes: int) -> VideoRecord:
    for path in entry.paths:
        _check_path(path, entry.where)
    found = next((uri for path in entry.paths if (uri := folders.find(path))), None)
    status, reason = Status.GOOD, ""
    if found is None:
        status, reason = Status.NOT_FOUND, f"named by {entry.where}, and not there"
    elif not 0 <= entry.label < num_classes:
        status = Status.LABEL_OUT_OF_RANGE
        reason = f"label {entry.label} of {entry.where} is not in 0..{num_classes - 1}"
    return VideoRecord(
        sample_id=_sample_id(entry.paths[0]),
        uri=found or entry.paths[0],
        label=entry.label,
        split=entry.split,
        group=_group_of(entry.paths[0]),
        status=status,
        reason=reason,
    )


def _check_path(path: str, where: str) -> None:
    """Refuse what could lead out of the root; fsspec reads ``::`` as a chain of file systems."""
    plain_parts = all(part not in ("", ".", "..") for part in path.split("/"))
    if not plain_parts or any(trap in path for trap in ("\\", "\0", "::", "://")):
        raise DatasetError(
            f"{where}: {path!r} is not a path below dataset.root. Write paths with forward slashes"
            " and without a scheme, '.', '..' or a slash in front."
        )


def _sample_id(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _group_of(path: str) -> str:
    """Name the recording that a video was cut from, if its own name tells.

    In UCF101 ``g01`` of two classes are two recordings, so the class is part of the name. In
    HMDB51 a film is one recording in all classes, and in Kinetics a YouTube video is.
    """
    class_folder, stem = PurePosixPath(path).parent.name, PurePosixPath(path).stem
    if match := UCF_STEM.fullmatch(stem):
        return f"{class_folder}/{match[1]}"
    if match := HMDB_STEM.fullmatch(stem):
        return match[1].removesuffix(f"_{class_folder}")
    if match := KINETICS_STEM.fullmatch(stem):
        return match[1]
    return ""


def _read_ucf101(dataset: DatasetConfig, _folders: _Folders) -> _Lists:
    annotations, number = _annotations(dataset), dataset.split_number
    classes = []
    for where, text in _read_lines(join_uri(annotations, "classInd.txt")):
        ordinal, _, class_name = text.partition(" ")
        classes.append((class_name, _integer(ordinal, where)))
    class_names = _in_label_order(classes, first=1, where="classInd.txt")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    entries = []
    for split, name in (("train", "trainlist"), ("val", "testlist")):
        for where, text in _read_lines(join_uri(annotations, f"{name}{number:02d}.txt")):
            path, _, official = text.partition(" ")  # a label, from 1, in training lists only
            folder = path.partition("/")[0]
            if not official and folder.casefold() not in labels:
                raise DatasetError(f"{where}: {folder!r} is not in classInd.txt")
            label = _integer(official, where) - 1 if official else labels[folder.casefold()]
            entries.append(_Entry(where, split, label, (path,)))
    return class_names, entries


def _read_hmdb51(dataset: DatasetConfig, _folders: _Folders) -> _Lists:
    annotations, ending = _annotations(dataset), f"_test_split{dataset.split_number}.txt"
    names = list_names(annotations)
    class_names = tuple(sorted(n.removesuffix(ending) for n in names if n.endswith(ending)))
    if not class_names:
        raise DatasetError(
            f"dataset.annotations {annotations} has no <class>{ending}; there is {_some(names)}"
        )
    entries = []
    for label, class_name in enumerate(class_names):
        for where, text in _read_lines(join_uri(annotations, class_name + ending)):
            video, _, code = text.rpartition(" ")
            if code not in ("0", "1", "2"):
                raise DatasetError(f"{where}: the code is {code!r}, not 0, 1 or 2")
            if code != "0":
                split = "train" if code == "1" else "val"
                entries.append(_Entry(where, split, label, (f"{class_name}/{video}",)))
    return class_names, entries


def _read_path_label_csv(dataset: DatasetConfig, _folders: _Folders) -> _Lists:
    entries = []
    for split, uri in _find_lists(dataset, SPLIT_NAMES, ".csv").items():
        for where, text in _read_lines(uri):
            path, _, label = text.rpartition(",")
            entries.append(_Entry(where, split, _integer(label, where), (path,)))
    return _classes_of_folders(entries), entries


def _classes_of_folders(entries: Iterable[_Entry]) -> tuple[str, ...]:
    """Name every label after the folder that has it most; published lists leave labels out."""
    labels: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for entry in entries:
        labels[PurePosixPath(entry.paths[0]).parent.name][entry.label] += 1
    folders = {counts.most_common(1)[0][0]: folder for folder, counts in labels.items()}
    return tuple(folders.get(label, f"label {label}") for label in range(len(labels)))


def _read_kinetics_csv(dataset: DatasetConfig, _folders: _Folders) -> _Lists:
    rows = [
        (split, where, row)
        for split, uri in _find_lists(dataset, SPLIT_NAMES, ".csv").items()
        for where, row in _read_table(uri, KINETICS_COLUMNS)
    ]
    class_names = tuple(sorted({row["label"] for _, _, row in rows}))
    labels = {name: label for label, name in enumerate(class_names)}
    return class_names, [
        _Entry(where, split, labels[row["label"]], _kinetics_paths(split, where, row))
        for split, where, row in rows
    ]


def _kinetics_paths(split: str, where: str, row: Mapping[str, str]) -> tuple[str, ...]:
    """Name where downloaders put a video: by split and class, by split, or by class.

    The folder of ``val`` is also called ``validate`` or ``validation``, and some write
    underscores into class names.
    """
    if row["split"] not in SPLIT_NAMES[split]:
        raise DatasetError(f"{where}: split {row['split']!r} in the list of split {split!r}")
    start, end = (_integer(row[column], where) for column in ("time_start", "time_end"))
    name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
    classes = (row["label"], row["label"].replace(" ", "_"))
    return (
        *(f"{folder}/{label}/{name}" for folder in SPLIT_NAMES[split] for label in classes),
        *(f"{folder}/{name}" for folder in SPLIT_NAMES[split]),
        *(f"{label}/{name}" for label in classes),
    )


def _read_ssv2_json(dataset: DatasetConfig, _folders: _Folders) -> _Lists:
    wanted = {"labels": ("labels",), "train": SPLIT_NAMES["train"], "val": SPLIT_NAMES["val"]}
    lists = _find_lists(dataset, wanted, ".json")
    classes = [
        (name, _integer(str(label), lists["labels"]))
        for name, label in _read_json(lists["labels"], dict).items()
    ]
    class_names = _in_label_order(classes, first=0, where=_name(lists["labels"]))
    labels = dict(classes)
    entries = []
    for split in ("train", "val"):
        for number, video in enumerate(_read_json(lists[split], list), start=1):
            where = f"{_name(lists[split])}, entry {number}"
            if not isinstance(video, dict) or not {"id", "template"} <= video.keys():
                raise DatasetError(f"{where} has no id or no template")
            template = re.sub(r"[][]", "", video["template"])
            if template not in labels:
                raise DatasetError(f"{where}: {template!r} is not in {_name(lists['labels'])}")
            paths = (f"{video['id']}.webm", f"{video['id']}.mp4")
            entries.append(_Entry(where, split, labels[template], paths))
    return class_names, entries


def _read_folders(dataset: DatasetConfig, folders: _Folders) -> _Lists:
    if {"train", "val"} <= set(folders.names()):
        found = {split: _videos_by_class(folders, split) for split in SPLIT_NAMES}
    else:
        found = _split_by_group(_videos_by_class(folders, ""))
    class_names = tuple(sorted({name for videos in found.values() for name in videos}))
    if not class_names:
        raise DatasetError(
            f"dataset.root {dataset.root} has no folders of videos ({', '.join(VIDEO_SUFFIXES)});"
            f" there is {_some(folders.names())}. Put the videos of a class into its folder."
        )
    labels = {name: label for label, name in enumerate(class_names)}
    return class_names, [
        _Entry(dataset.root, split, labels[name], (path,))
        for split, videos in found.items()
        for name, paths in videos.items()
        for path in paths
    ]


def _videos_by_class(folders: _Folders, parent: str) -> dict[str, list[str]]:
    """List the folders that hold videos; lists and notes may lie beside them."""
    found = {}
    for name in folders.names(parent):
        folder = f"{parent}/{name}" if parent else name
        if _is_video(name):
            raise DatasetError(f"{folder} is a video outside the class folders. Move it into one.")
        if paths := [f"{folder}/{video}" for video in folders.names(folder) if _is_video(video)]:
            found[name] = paths
    return found


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")


def _split_by_group(videos: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Choose the videos of val: whole groups if every name tells its group, else in each class.

    ``g07`` of all classes stay together, since in some data sets they are one recording. Names
    alone decide; adding a video can move others, so lists are better for a data set that grows.
    """
    groups = {
        path: _group_of(path).rpartition("/")[2] for paths in videos.values() for path in paths
    }
    if all(groups.values()):
        chosen = _choose_share(set(groups.values()))
        val = {path for path, group in groups.items() if group in chosen}
    else:
        val = {path for paths in videos.values() for path in _choose_share(paths)}
    return {
        split: {name: [p for p in paths if (p in val) == inside] for name, paths in videos.items()}
        for split, inside in (("train", False), ("val", True))
    }


def _choose_share(names: Collection[str]) -> set[str]:
    """Choose ``VAL_SHARE`` of names by hash, though at least one and never all."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(_sample_id(name).encode()).digest())
    return set(ordered[: min(len(ordered) - 1, max(1, round(VAL_SHARE * len(ordered))))])


_READERS: Mapping[Layout, Callable[[DatasetConfig, _Folders], _Lists]] = {
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "folders": _read_folders,
    "path_label_csv": _read_path_label_csv,
    "kinetics_csv": _read_kinetics_csv,
    "ssv2_json": _read_ssv2_json,
}


def _annotations(dataset: DatasetConfig) -> str:
    if dataset.annotations is None:
        raise DatasetError(f"dataset.annotations is required for layout {dataset.layout}")
    return dataset.annotations


def _find_lists(
    dataset: DatasetConfig, wanted: Mapping[str, tuple[str, ...]], suffix: str
) -> dict[str, str]:
    """Return the URI of each wanted list, which may have one of several names."""
    annotations = _annotations(dataset)
    names = list_names(annotations)
    lists = {}
    for kind, spellings in wanted.items():
        pattern = re.compile(rf"(.*[-_])?({'|'.join(spellings)})" + re.escape(suffix))
        found = [name for name in names if pattern.fullmatch(name)]
        if len(found) > 1:
            found = [name for name in found if name.startswith(dataset.name)]
        if len(found) == 1:
            lists[kind] = join_uri(annotations, found[0])
        elif kind != "test":
            raise DatasetError(
                f"dataset.annotations {annotations} needs one {spellings[0]}{suffix} or"
                f" {dataset.name}_{spellings[0]}{suffix}; there is {_some(names)}"
            )
    return lists


def _read_lines(uri: str) -> list[tuple[str, str]]:
    """Read a list as (where, line), without empty lines, line ends and blanks around them."""
    lines = enumerate(_read_text(uri).split("\n"), start=1)
    return [(f"{_name(uri)}, line {n}", text.strip()) for n, text in lines if text.strip()]


def _read_table(uri: str, columns: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Read a csv with a header as (where, values by column)."""
    rows = [(where, next(csv.reader([text]))) for where, text in _read_lines(uri)]
    header = rows[0][1] if rows else []
    if missing := sorted(set(columns) - set(header)):
        raise DatasetError(f"{uri} has no column {', '.join(missing)}; its columns are {header}")
    for where, values in rows:
        if len(values) != len(header):
            raise DatasetError(f"{where} has {len(values)} values for {len(header)} columns")
    return [(where, dict(zip(header, values, strict=True))) for where, values in rows[1:]]


def _read_json(uri: str, kind: type) -> Any:
    try:
        value = json.loads(_read_text(uri))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{uri} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise DatasetError(f"{uri} holds a {type(value).__name__}, not a {kind.__name__}")
    return value


def _read_text(uri: str) -> str:
    try:
        return read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError:
        there = _some(list_names(uri.rpartition("/")[0]))
        raise DatasetError(
            f"there is no {uri}; beside it there is {there}. Correct dataset.annotations, or use"
            " layout folders for a data set without official lists."
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{uri} is not UTF-8 text: {error}") from error


def _in_label_order(
    classes: Collection[tuple[str, int]], *, first: int, where: str
) -> tuple[str, ...]:
    names = {label: name for name, label in classes}
    if sorted(names) != list(range(first, first + len(classes))):
        raise DatasetError(
            f"{where}: labels must be {first}..{first + len(classes) - 1}, each once"
        )
    return tuple(names[label] for label in sorted(names))


def _integer(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):  # nine digits fit the manifest's int32
        raise DatasetError(f"{where}: {text!r} is not an integer")
    return int(text)


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def _some(names: Collection[str], count: int = 5) -> str:
    first = ", ".join(list(names)[:count]) or "nothing"
    return f"{first}, ... ({len(names)} in all)" if len(names) > count else first
