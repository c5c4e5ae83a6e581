"""The classes of ``path,label`` lists: their names, and the number behind each label.

Labels are class names, or integers that count from 0 or another number. Integers get their names
from a file beside the lists, or from the folders of the videos.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.folders import shorten
from pipeline.dataset.lists import (
    LABEL_COLUMNS,
    SEPARATORS,
    Line,
    annotations_uri,
    name_of,
    read_lines,
    split_fields,
)
from pipeline.errors import DatasetError
from pipeline.storage.files import join_uri, list_names

MAX_LABEL = 99_999
MOST_VIDEOS = 0.6  # have the label of their folder, where folders are of classes
CLASS_FILES = ("classes.csv", "labels.csv", "classes.txt", "labels.txt")
# First lines that are headers. In a .txt, "action" or "label" may be a class.
HEADERS = {".csv": {"name", *LABEL_COLUMNS}, ".txt": {"name", "class_name", "label_name"}}


def number_labels(
    lines: Sequence[Line], dataset: DatasetConfig
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the class names, the label of each line, and notes on how they were found."""
    uri = _file_of_classes(dataset)
    listed = read_classes(uri) if uri else {}
    names, notes = tuple(listed.values()), []
    if uri:
        notes = [f"{name_of(uri)}: {len(names)} classes, counted from {min(listed)}"]
    if any(line.number is None for line in lines):
        return (*_by_name(lines, names), notes)
    labels = [line.number or 0 for line in lines]
    used = {label for label in labels if label >= 0}
    largest, count = max(used, default=0), len(names) or dataset.num_classes
    if largest > MAX_LABEL:
        line = lines[labels.index(largest)]
        raise DatasetError(f"{line.where}: label {line.label} is over {MAX_LABEL}")
    if count is None and 0 not in used:
        raise DatasetError(
            f"the smallest label is {min(used, default=-1)}. Set dataset.num_classes, which says"
            " whether labels count from there. Or list the classes in classes.csv beside the lists"
            " (id,name)."
        )
    count = count or largest + 1
    first = _first_label(used, count)
    if listed and first != min(listed) and (first or 0 in used):
        line = next(line for line in lines if line.number == (largest if first else 0))
        raise DatasetError(
            f"{line.where}: label {line.label}; {uri} counts {count} classes from"
            f" {min(listed)}. Correct one of the two."
        )
    first = min(listed, default=first)
    if first:
        last = first + count - 1
        notes.append(f"labels count from {first} to {last}: label {first} of the lists is class 0")
    labels = [label - first for label in labels]
    if listed:
        return names, labels, notes
    by_folder = _names_of_folders(lines, labels, dataset.num_classes)
    if not by_folder and count not in (largest + 1 - first, len(used)):
        count = len(used)  # which read_annotations refuses
    other = "label" if by_folder else "class"
    names = tuple(by_folder.get(label, f"{other} {label}") for label in range(count))
    return names, labels, notes


def _first_label(used: set[int], count: int) -> int:
    """Return the label of the first class.

    That is 1 if no label is 0 and the largest is ``count``; a larger number if smallest to largest
    are just ``count`` numbers; else 0.
    """
    first = max(used, default=0) - count + 1
    counts_from_it = (first == 1 and 0 not in used) or (first > 1 and min(used) == first)
    return first if counts_from_it else 0


def _file_of_classes(dataset: DatasetConfig) -> str | None:
    annotations = annotations_uri(dataset)
    names = (spelling for n in CLASS_FILES for spelling in (f"{dataset.name}_{n}", n))
    there = set(list_names(annotations))
    return next((join_uri(annotations, name) for name in names if name in there), None)


def read_classes(uri: str) -> dict[int, str]:
    """Read a file of classes, in their order: from 0 or 1, the name of each.

    Lines are ``id,name`` or ``name,id``, or a name each, with a header or none.
    """
    texts = [text for _, text in read_lines(uri)]
    pairs = [_id_and_name(text) for text in texts]
    unnumbered = [number is None for number, _ in pairs]
    headed = len(texts) > 1 and unnumbered[0] and not any(unnumbered[1:])
    headers = HEADERS[".txt" if uri.endswith(".txt") else ".csv"]
    if headed or (texts and texts[0].casefold() in headers):
        texts, pairs = texts[1:], pairs[1:]
    if any(number is None for number, _ in pairs):
        pairs = [(number, text.strip('"')) for number, text in enumerate(texts)]
    names = {number: name for number, name in pairs if number is not None}
    first = min(names, default=-1)
    if first not in (0, 1) or sorted(names) != list(range(first, first + len(pairs))):
        raise DatasetError(f"{uri}: ids of classes must be 0, 1, 2 ... or 1, 2, 3 ..., each once")
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise DatasetError(f"{uri}: two classes are called {twice!r}")
    return dict(sorted(names.items()))


def _id_and_name(text: str) -> tuple[int | None, str]:
    """Split a line into id and name; a number after a blank is part of the name: ``gesture 2``."""
    for separator in SEPARATORS:
        fields = [field.strip() for field in split_fields(text, separator)]
        orders = [(fields[0], fields[1:])]
        if separator != " ":
            orders.append((fields[-1], fields[:-1]))
        for number, name in orders:
            if name and re.fullmatch(r"\d{1,9}", number):
                return int(number), separator.join(name).strip()
    return None, text


def _by_name(lines: Sequence[Line], listed: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Number labels that are class names, in the listed order or else in sorted order."""
    numbered = [line for line in lines if line.number is not None]
    if numbered and not listed:
        named = next(line for line in lines if line.number is None)
        raise DatasetError(
            f"{named.where}: the label {named.label!r} is a name, and {numbered[0].where} has the"
            f" integer {numbered[0].label}. Use one of the two, or list the names in classes.csv"
            " beside the lists (id,name)."
        )
    classes = tuple(listed) or tuple(sorted({line.label for line in lines}))
    labels = {name.casefold(): label for label, name in enumerate(classes)}
    if len(labels) < len(classes):
        twice = [name for name in classes if classes[labels[name.casefold()]] != name]
        raise DatasetError(f"classes differ only in case: {shorten(twice)}. Spell each in one way.")
    for line in lines:
        if line.label.casefold() not in labels:
            raise DatasetError(
                f"{line.where}: {line.label!r} is none of the listed classes {shorten(classes)}"
            )
    return classes, [labels[line.label.casefold()] for line in lines]


def _names_of_folders(
    lines: Iterable[Line], labels: Iterable[int], num_classes: int | None
) -> dict[int, str]:
    """Name each label after the folder where it is the commonest, if the folders are classes.

    They are classes if there are as many folders as classes or used labels (published lists leave
    labels out), if each has a commonest label of its own, and if most videos have the commonest
    label of their folder. Folders of splits or of sessions hold several labels each.
    """
    numbered = list(zip((line.path.split("/") for line in lines), labels, strict=True))
    for level in (-2, 0):  # the folder of the video, or the first of its path
        counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for parts, label in numbered:
            counts[parts[level] if len(parts) > 1 else ""][label] += 1
        commonest = {folder: found.most_common(1)[0] for folder, found in counts.items()}
        num_agreeing = sum(count for _, count in commonest.values())
        num_labels = len({label for _, label in numbered})
        folders = {label: folder for folder, (label, _) in commonest.items()}
        as_many = len(folders) == len(counts) in (num_classes, num_labels)
        if as_many and num_agreeing > MOST_VIDEOS * len(numbered):
            return {label: folder for label, folder in folders.items() if folder}
    return {}
