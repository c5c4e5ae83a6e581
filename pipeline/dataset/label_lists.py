"""Lists of ``path,label`` as people write them: any separator, a header or none, names or numbers.

A line is a path, other columns if there are any, and a label. A header (``path,label``) allows
columns in any order, and one with groups. All lines of a list have the same separator.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.folders import is_video_name, shorten
from pipeline.dataset.lists import annotations_uri, name_of, read_lines
from pipeline.errors import DatasetError
from pipeline.storage.files import join_uri, list_names

PATH_COLUMNS = (
    "path", "video_path", "video path", "file_path", "filepath", "video", "videos", "file",
    "filename", "file_name", "video_name", "videoname", "name", "clip", "uri", "video_id", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "target", "class", "class_id", "label_id", "classid", "class_index",
    "class_idx", "class_name", "classname", "label_name", "category", "action",
)  # fmt: skip
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", " ": "blank"}
INTEGER = re.compile(r"(-?[0-9]{1,99})(?:\.0+)?")  # pandas writes 3.0 where a value is missing
MAX_LABEL = 99_999


@dataclass(frozen=True)
class Line:
    """A video of a list; ``label`` is as it stands there."""

    where: str
    path: str
    label: str
    group: str = ""

    @property
    def number(self) -> int | None:
        """The label, if it is an integer."""
        match = INTEGER.fullmatch(self.label)
        return max(-1, int(match[1])) if match else None  # below 0 is no label, and no matter which


@dataclass(frozen=True)
class Header:
    """Where the columns are that are read; ``width`` is the number of all."""

    path: int
    label: int
    group: int | None
    width: int


# --- lines --------------------------------------------------------------------------------------


def read_label_list(uri: str, group_column: str, *, optional: bool) -> tuple[list[Line], str]:
    """Read a list.

    Args:
        uri: of the list.
        group_column: the column of the header that names groups.
        optional: a list without labels is left out.

    Returns:
        Its lines, and how it was read, in words.

    Raises:
        DatasetError: with the line that makes no sense.

    """
    lines, name = read_lines(uri), name_of(uri)
    if not lines:
        return [], f"{name}: is empty"
    separator = _separator(lines, optional=optional)
    header = _header(lines, separator, group_column) if separator else None
    if separator is None or (header is not None and header.label < 0):
        if optional:
            return [], f"{name}: has no labels and is left out"
        where, text = lines[0]
        raise DatasetError(f"{where}: {text!r} names no column 'label', 'class' or 'target'")
    rows = [_fields_of(line, separator, header) for line in lines[header is not None :]]
    width = len(rows[0][1]) if rows else 2
    for where, fields in rows:
        if len(fields) != width:
            raise DatasetError(
                f"{where} has {len(fields)} columns, and {rows[0][0]} has {width}. Put names with a"
                f" {SEPARATORS[separator]} in them into quotes."
            )
    header = header or Header(0, width - 1, None, width)
    found = [_line(where, fields, header) for where, fields in rows]
    if all("\\" in line.path for line in found):  # written on Windows
        found = [replace(line, path=line.path.replace("\\", "/")) for line in found]
    columns = f"the path in column {header.path + 1}, the label in column {header.label + 1}"
    if header.group is not None:
        columns += f", the group in column {header.group + 1}"
    return found, f"{name}: {len(found)} videos, separator {SEPARATORS[separator]}, {columns}"


def _separator(lines: Sequence[tuple[str, str]], *, optional: bool) -> str | None:
    """Find the separator of a list; None if an optional list has none, and so no labels."""
    body = lines[1:] or lines  # the first line may be a header
    for videos_only in (True, False):
        for separator in SEPARATORS:
            if all(_fits(text, separator, videos_only) for _, text in body):
                return separator
    fitting = {s: sum(_fits(text, s, False) for _, text in body) for s in SEPARATORS}
    best = max(fitting, key=lambda separator: fitting[separator])
    if optional and fitting[best] == 0:
        return None
    raise _unlike_others(next(line for line in body if not _fits(line[1], best, False)), best)


def _unlike_others(line: tuple[str, str], separator: str) -> DatasetError:
    where, text = line
    return DatasetError(
        f"{where}: {text!r} is no path and label, with a {SEPARATORS[separator]} between. A list"
        " has one separator in all lines: comma, tab, semicolon or blank."
    )


def _fits(text: str, separator: str, videos_only: bool) -> bool:
    fields = _fields(text, separator)
    num_leading = _num_path_fields(fields, separator)
    if num_leading == 0:
        return not videos_only and len(fields) > 1
    return len(fields) > num_leading


def _fields(text: str, separator: str) -> list[str]:
    if '"' in text:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=True))
    return text.split(separator)


def _num_path_fields(fields: Sequence[str], separator: str) -> int:
    """Count the fields of the path, which may have separators in it; 0 if it is no video's."""
    for count in range(1, len(fields) + 1):
        if is_video_name(separator.join(fields[:count]).strip().replace("\\", "/").split("/")[-1]):
            return count
    return 0


def _header(lines: Sequence[tuple[str, str]], separator: str, group: str) -> Header | None:
    """Read the first line as a header, if it is one: it names no video, and columns that we know.

    Raises:
        DatasetError: if it can only be a header, with other names.

    """
    where, text = lines[0]
    fields = [field.strip().casefold() for field in _fields(text, separator)]
    if _num_path_fields(fields, separator):
        return None
    path = next((fields.index(name) for name in PATH_COLUMNS if name in fields), None)
    label = next((fields.index(name) for name in LABEL_COLUMNS if name in fields), -1)
    if path is not None:
        return Header(path, label, fields.index(group) if group in fields else None, len(fields))
    others_are_videos = all(_fits(line, separator, True) for _, line in lines[1:])
    if label >= 0 or ("." not in text and len(lines) > 1 and others_are_videos):
        raise DatasetError(
            f"{where}: {text!r} is neither a video with its label nor a header with the columns"
            " path and label"
        )
    return None


def _fields_of(
    line: tuple[str, str], separator: str, header: Header | None
) -> tuple[str, list[str]]:
    """Split a line into its columns; a path may have the separator in it."""
    where, text = line
    fields = _fields(text, separator)
    if header is None or header.path == 0:
        num_leading = max(1, _num_path_fields(fields, separator))
        fields = [separator.join(fields[:num_leading]), *fields[num_leading:]]
    fields = [field.strip() for field in fields]
    if separator == " ":
        fields = [field for field in fields if field]
    if len(fields) < 2:
        raise _unlike_others(line, separator)
    if header is None and not all(re.fullmatch(r"-?[\d.]*", field) for field in fields[1:-1]):
        raise DatasetError(
            f"{where}: {text!r} has columns that are neither path, number nor label. Put names with"
            f" a {SEPARATORS[separator]} in them into quotes, or name the columns in a first line."
        )
    if header is not None and len(fields) != header.width:
        raise DatasetError(f"{where}: {text!r} has {len(fields)} values for {header.width} columns")
    return where, fields


def _line(where: str, fields: Sequence[str], header: Header) -> Line:
    path, label = fields[header.path], fields[header.label]
    if not path or not label:
        raise DatasetError(f"{where}: {', '.join(fields)!r} has no {'label' if path else 'path'}")
    return Line(where, path, label, "" if header.group is None else fields[header.group])


# --- classes ------------------------------------------------------------------------------------


def number_labels(
    lines: Sequence[Line], dataset: DatasetConfig
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the class names, the label of each line, and what is worth a note.

    Labels are integers, from 0 or from 1, or the names of classes. Names of integer labels are in
    a file beside the lists, or are those of the folders that the videos of each class lie in.

    Raises:
        DatasetError: if it cannot be told which class a label means.

    """
    uri, first, listed = _listed_classes(dataset)
    notes = [f"{name_of(uri)}: {len(listed)} classes, counted from {first}"] if listed else []
    if any(line.number is None for line in lines):
        return (*_by_name(lines, listed), notes)
    labels = [line.number or 0 for line in lines]
    if max(labels, default=0) > MAX_LABEL:
        line = lines[labels.index(max(labels))]
        raise DatasetError(f"{line.where}: label {line.label} is over {MAX_LABEL}")
    used = {label for label in labels if label >= 0}
    by_folder = _names_of_folders(lines, labels, dataset.num_classes)
    count = len(listed) or dataset.num_classes
    if count is None and 0 not in used:
        raise DatasetError(
            f"the smallest label is {min(used, default=-1)}. Set dataset.num_classes: where the"
            " largest label is as large, labels count from 1. Or list the classes in classes.csv"
            " beside the lists (id,name)."
        )
    if count is None:
        count = max(used) + 1
    from_one = 0 not in used and max(used, default=0) == count
    if listed and ((first == 0 and from_one) or (first == 1 and 0 in used)):
        line = lines[labels.index(count if from_one else 0)]
        raise DatasetError(
            f"{line.where}: label {line.label}; {uri} counts {count} classes from {first}. Correct"
            " one of the two."
        )
    shift = first if listed else int(from_one)
    if shift:
        notes.append(f"labels count from 1 to {count}: label 1 of the lists is class 0 here")
    names: tuple[str, ...]
    if listed:
        names = listed
    elif by_folder or count in (max(used, default=0) + 1 - shift, len(used)):
        other = "label" if by_folder else "class"
        names = tuple(by_folder.get(label + shift, f"{other} {label}") for label in range(count))
    else:
        names = tuple(f"class {label}" for label in sorted(used))  # their number will be refused
    return names, [label - shift for label in labels], notes


def _listed_classes(dataset: DatasetConfig) -> tuple[str, int, tuple[str, ...]]:
    """Read the file of classes beside the lists, if there is one: its URI, first id, and names."""
    annotations = annotations_uri(dataset)
    there = set(list_names(annotations))
    for name in ("classes.csv", "labels.csv", "classes.txt", "labels.txt"):
        for spelling in (f"{dataset.name}_{name}", name):
            if spelling in there:
                uri = join_uri(annotations, spelling)
                return uri, *read_classes(uri)
    return "", 0, ()


def read_classes(uri: str) -> tuple[int, tuple[str, ...]]:
    """Read ``id,name`` or ``name,id``, or a name a line: the first id, and the names in order."""
    texts = [text for _, text in read_lines(uri)]
    pairs = [_id_and_name(text) for text in texts]
    unnumbered = [number is None for number, _ in pairs]
    headed = len(texts) > 1 and unnumbered[0] and not any(unnumbered[1:])
    if headed or (texts and texts[0].casefold() in ("name", *LABEL_COLUMNS)):
        texts, pairs = texts[1:], pairs[1:]
    if any(number is None for number, _ in pairs):
        pairs = [(number, text.strip('"')) for number, text in enumerate(texts)]
    names = {number: name for number, name in pairs if number is not None}
    first = min(names, default=-1)
    if first not in (0, 1) or set(names) != set(range(first, first + len(pairs))):
        raise DatasetError(f"{uri}: ids of classes must be 0, 1, 2 ... or 1, 2, 3 ..., each once")
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise DatasetError(f"{uri}: two classes are called {twice!r}")
    return first, tuple(names[first + position] for position in range(len(names)))


def _id_and_name(text: str) -> tuple[int | None, str]:
    """Split a line at its number; behind a blank it may be the end of a name: ``gesture 2``."""
    for separator in SEPARATORS:
        fields = [field.strip() for field in _fields(text, separator)]
        orders = [(fields[0], fields[1:])]
        if separator != " ":
            orders.append((fields[-1], fields[:-1]))
        for number, name in orders:
            if name and re.fullmatch(r"\d{1,9}", number):
                return int(number), separator.join(name).strip()
    return None, text


def _by_name(lines: Sequence[Line], listed: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Number labels that are names of classes: as they are listed, or else sorted."""
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
    """Name labels after the folders that have them most, where folders are of classes.

    They are where there are as many as classes or labels, and most of their videos have their
    label; published lists leave labels out.
    """
    numbered = list(zip((line.path.split("/") for line in lines), labels, strict=True))
    for level in (-2, 0):  # the folder of the video, or the first of its path
        counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        for parts, label in numbered:
            counts[parts[level] if len(parts) > 1 else ""][label] += 1
        commonest = {folder: found.most_common(1)[0] for folder, found in counts.items()}
        num_agreeing = sum(count for _, count in commonest.values())
        num_labels = len({label for _, label in numbered})
        if len(counts) in (num_classes, num_labels) and 2 * num_agreeing > len(numbered):
            return {label: folder for folder, (label, _) in commonest.items() if folder}
    return {}
