"""Readers of annotations, one for each ``dataset.layout``.

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

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.config.schema import DatasetConfig, Layout
from pipeline.dataset.lists import (
    annotations_uri,
    find_lists,
    integer,
    name_of,
    read_json,
    read_lines,
    read_table,
    shorten,
)
from pipeline.errors import DatasetError
from pipeline.storage.files import join_uri, list_names

VAL_SHARE = 0.2  # of the groups, where layout "folders" has no split of its own
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validate", "validation"), "test": ("test",)}
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v",
    ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv",
    ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
UCF_STEM = re.compile(r".+_(g\d+)_c\d+")
HMDB_STEM = re.compile(r"(.+)_[fhlu]_[cn]m_np\d+_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")
KINETICS_STEM = re.compile(r"(.{11})_\d{6}_\d{6}")


@dataclass(frozen=True)
class Entry:
    """An annotated video and where it may be; the first path also makes its sample_id.

    ``where`` is the list and the line, in words for a message.
    """

    where: str
    split: str
    label: int
    paths: tuple[str, ...]


Lists = tuple[tuple[str, ...], list[Entry]]  # class names in label order, and the videos


class Folders:
    """The names below a root; each folder is listed only once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._listed: dict[str, dict[str, str]] = {}

    def names(self, folder: str = "") -> list[str]:
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


def _read_ucf101(dataset: DatasetConfig, _folders: Folders) -> Lists:
    annotations, number = annotations_uri(dataset), dataset.split_number
    classes = []
    for where, text in read_lines(join_uri(annotations, "classInd.txt")):
        ordinal, _, class_name = text.partition(" ")
        classes.append((class_name, integer(ordinal, where)))
    class_names = in_label_order(classes, first=1, where="classInd.txt")
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
    return class_names, entries


def _read_hmdb51(dataset: DatasetConfig, _folders: Folders) -> Lists:
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
    return class_names, entries


def _read_path_label_csv(dataset: DatasetConfig, _folders: Folders) -> Lists:
    entries = []
    for split, uri in find_lists(dataset, SPLIT_NAMES, ".csv").items():
        for where, text in read_lines(uri):
            path, _, label = text.rpartition(",")
            entries.append(Entry(where, split, integer(label, where), (path,)))
    return _classes_of_folders(entries), entries


def _classes_of_folders(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Name every label after the folder that has it most; published lists leave labels out."""
    labels: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for entry in entries:
        labels[PurePosixPath(entry.paths[0]).parent.name][entry.label] += 1
    folders = {counts.most_common(1)[0][0]: folder for folder, counts in labels.items()}
    return tuple(folders.get(label, f"label {label}") for label in range(len(labels)))


def _read_kinetics_csv(dataset: DatasetConfig, _folders: Folders) -> Lists:
    rows = [
        (split, where, row)
        for split, uri in find_lists(dataset, SPLIT_NAMES, ".csv").items()
        for where, row in read_table(uri, KINETICS_COLUMNS)
    ]
    class_names = tuple(sorted({row["label"] for _, _, row in rows}))
    labels = {name: label for label, name in enumerate(class_names)}
    return class_names, [
        Entry(where, split, labels[row["label"]], _kinetics_paths(split, where, row))
        for split, where, row in rows
    ]


def _kinetics_paths(split: str, where: str, row: Mapping[str, str]) -> tuple[str, ...]:
    """Name where downloaders put a video: by split and class, by split, or by class.

    The folder of ``val`` is also called ``validate`` or ``validation``, and some write
    underscores into class names.
    """
    if row["split"] not in SPLIT_NAMES[split]:
        raise DatasetError(f"{where}: split {row['split']!r} in the list of split {split!r}")
    start, end = (integer(row[column], where) for column in ("time_start", "time_end"))
    name = f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"
    classes = (row["label"], row["label"].replace(" ", "_"))
    return (
        *(f"{folder}/{label}/{name}" for folder in SPLIT_NAMES[split] for label in classes),
        *(f"{folder}/{name}" for folder in SPLIT_NAMES[split]),
        *(f"{label}/{name}" for label in classes),
    )


def _read_ssv2_json(dataset: DatasetConfig, _folders: Folders) -> Lists:
    wanted = {"labels": ("labels",), "train": SPLIT_NAMES["train"], "val": SPLIT_NAMES["val"]}
    lists = find_lists(dataset, wanted, ".json")
    classes = [
        (name, integer(str(label), lists["labels"]))
        for name, label in read_json(lists["labels"], dict).items()
    ]
    class_names = in_label_order(classes, first=0, where=name_of(lists["labels"]))
    labels = dict(classes)
    entries = []
    for split in ("train", "val"):
        for number, video in enumerate(read_json(lists[split], list), start=1):
            where = f"{name_of(lists[split])}, entry {number}"
            if not isinstance(video, dict) or not {"id", "template"} <= video.keys():
                raise DatasetError(f"{where} has no id or no template")
            template = re.sub(r"[][]", "", video["template"])
            if template not in labels:
                raise DatasetError(f"{where}: {template!r} is not in {name_of(lists['labels'])}")
            paths = (f"{video['id']}.webm", f"{video['id']}.mp4")
            entries.append(Entry(where, split, labels[template], paths))
    return class_names, entries


def _read_folders(dataset: DatasetConfig, folders: Folders) -> Lists:
    if {"train", "val"} <= set(folders.names()):
        found = {split: _videos_by_class(folders, split) for split in SPLIT_NAMES}
    else:
        found = _split_by_group(_videos_by_class(folders, ""))
    class_names = tuple(sorted({name for videos in found.values() for name in videos}))
    if not class_names:
        raise DatasetError(
            f"dataset.root {dataset.root} has no folders of videos ({', '.join(VIDEO_SUFFIXES)});"
            f" there is {shorten(folders.names())}. Put the videos of a class into its folder."
        )
    labels = {name: label for label, name in enumerate(class_names)}
    return class_names, [
        Entry(dataset.root, split, labels[name], (path,))
        for split, videos in found.items()
        for name, paths in videos.items()
        for path in paths
    ]


def _videos_by_class(folders: Folders, parent: str) -> dict[str, list[str]]:
    """List the folders that hold videos; lists and notes may lie beside them."""
    found = {}
    for name in folders.names(parent):
        folder = f"{parent}/{name}" if parent else name
        if is_video_name(name):
            raise DatasetError(f"{folder} is a video outside the class folders. Move it into one.")
        if paths := [
            f"{folder}/{video}" for video in folders.names(folder) if is_video_name(video)
        ]:
            found[name] = paths
    return found


def is_video_name(name: str) -> bool:
    """Return whether a file's name is that of a video."""
    return not why_no_video(name)


def why_no_video(name: str) -> str:
    """Return why a file is no video by its name; "" if it may be one."""
    if name.startswith("."):
        return "a hidden file"
    return "" if name.lower().endswith(VIDEO_SUFFIXES) else "no suffix of a video"


def _split_by_group(videos: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Choose the videos of val: whole groups if every name tells its group, else in each class.

    ``g07`` of all classes stay together, since in some data sets they are one recording. Names
    alone decide; adding a video can move others, so lists are better for a data set that grows.
    """
    groups = {
        path: group_of(path).rpartition("/")[2] for paths in videos.values() for path in paths
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
    ordered = sorted(names, key=lambda name: hashlib.sha256(sample_id_of(name).encode()).digest())
    return set(ordered[: min(len(ordered) - 1, max(1, round(VAL_SHARE * len(ordered))))])


def in_label_order(
    classes: Collection[tuple[str, int]], *, first: int, where: str
) -> tuple[str, ...]:
    """Return the class names by label, when the labels count up from ``first``."""
    names = {label: name for name, label in classes}
    if sorted(names) != list(range(first, first + len(classes))):
        raise DatasetError(
            f"{where}: labels must be {first}..{first + len(classes) - 1}, each once"
        )
    return tuple(names[label] for label in sorted(names))


def sample_id_of(path: str) -> str:
    """Return the sample_id of a video, from its path below the root."""
    return str(PurePosixPath(path).with_suffix(""))


def group_of(path: str) -> str:
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


READERS: Mapping[Layout, Callable[[DatasetConfig, Folders], Lists]] = {
    "ucf101": _read_ucf101,
    "hmdb51": _read_hmdb51,
    "folders": _read_folders,
    "path_label_csv": _read_path_label_csv,
    "kinetics_csv": _read_kinetics_csv,
    "ssv2_json": _read_ssv2_json,
}
