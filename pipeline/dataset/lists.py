"""Annotation lists: text, csv and json, with any line ends and prefixed names.

Lists of ``path,label`` come as people write them. A line is a path, other columns if there are any,
and a label; a header (``path,label``) allows columns in any order, and one with groups. All lines
of a list have the same separator. Every error names the list and the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.folders import is_video_name, shorten
from pipeline.errors import DatasetError
from pipeline.storage.files import join_uri, list_names, parse_json, read_parsed

PATH_COLUMNS = (
    "path", "video_path", "file_path", "filepath", "video", "videos", "file", "filename",
    "file_name", "video_name", "videoname", "name", "clip", "uri", "video_id", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "labels", "target", "class", "class_id", "label_id", "classid", "class_index",
    "class_idx", "class_name", "classname", "label_name", "category", "action",
)  # fmt: skip
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", " ": "blank"}
INTEGER = re.compile(r"(-?[0-9]{1,99})(?:\.0+)?")  # pandas writes 3.0 where a value is missing


def annotations_uri(dataset: DatasetConfig) -> str:
    if dataset.annotations is None:
        raise DatasetError(f"dataset.annotations is required for layout {dataset.layout}")
    return dataset.annotations


def find_lists(
    dataset: DatasetConfig, wanted: Mapping[str, tuple[str, ...]], suffixes: Sequence[str]
) -> dict[str, str]:
    """Return the URI of each wanted list, which may have one of several names.

    Suffixes are tried in order; the first that fits a file is taken. A test list may be missing,
    and so may one of val where ``dataset.val_fraction`` cuts val off train.
    """
    annotations = annotations_uri(dataset)
    names = list_names(annotations)
    lists = {}
    for kind, spellings in wanted.items():
        found: list[str] = []
        for suffix in suffixes:
            pattern = re.compile(rf"(.*[-_])?({'|'.join(spellings)})" + re.escape(suffix))
            found = found or [name for name in names if pattern.fullmatch(name)]
        if len(found) > 1:
            found = [name for name in found if name.startswith(dataset.name)]
        if len(found) == 1:
            lists[kind] = join_uri(annotations, found[0])
        elif kind != "test" and not (kind == "val" and dataset.val_fraction):
            cut = ", or dataset.val_fraction, which cuts val off train" if kind == "val" else ""
            raise DatasetError(
                f"dataset.annotations {annotations} needs one {spellings[0]}{suffixes[0]} or"
                f" {dataset.name}_{spellings[0]}{suffixes[0]}{cut}; there is {shorten(names)}"
            )
    return lists


def read_lines(uri: str) -> list[tuple[str, str]]:
    """Read a list as (where, line), without empty lines, line ends and blanks around them."""
    lines = enumerate(re.split(r"\r\n|\n|\r", _read_text(uri)), start=1)
    return [(f"{name_of(uri)}, line {n}", text.strip()) for n, text in lines if text.strip()]


def read_table(uri: str) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Read a csv with a header: its columns in lower case, and (where, values by column)."""
    rows = [(where, next(csv.reader([text]))) for where, text in read_lines(uri)]
    header = [name.strip().casefold() for name in rows[0][1]] if rows else []
    for where, values in rows:
        if len(values) != len(header):
            raise DatasetError(f"{where} has {len(values)} values for {len(header)} columns")
    return header, [(where, dict(zip(header, values, strict=True))) for where, values in rows[1:]]


def read_json(uri: str, kind: type) -> Any:
    """Read a JSON file whose value is of ``kind``."""
    try:
        value = parse_json(_read_text(uri))
    except ValueError as error:
        raise DatasetError(f"{uri} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise DatasetError(f"{uri} holds a {type(value).__name__}, not a {kind.__name__}")
    return value


def _read_text(uri: str) -> str:
    try:
        return read_parsed(uri).decode("utf-8-sig")
    except FileNotFoundError:
        there = shorten(list_names(uri.rpartition("/")[0]))
        raise DatasetError(
            f"there is no {uri}; beside it there is {there}. Correct dataset.annotations, or use"
            " layout folders for a data set without official lists."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{uri} cannot be read as text: {error.reason} in line {line}. Save it as UTF-8."
        ) from error
    except ValueError as error:
        raise DatasetError(f"{uri} cannot be read as text: {error}") from error


def integer(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):  # nine digits fit the manifest's int32
        raise DatasetError(f"{where}: {text!r} is not an integer")
    return int(text)


def name_of(uri: str) -> str:
    return uri.rpartition("/")[2]


# --- path,label -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A video of a list; ``label`` is as it stands there, and empty if there is none."""

    where: str
    path: str
    label: str
    group: str = ""

    @property
    def number(self) -> int | None:
        """The label, if it is an integer."""
        match = INTEGER.fullmatch(self.label)
        return max(-1, int(match[1])) if match else None  # all below 0 mean "no label"


@dataclass(frozen=True)
class Header:
    """The positions of the columns that are read, and ``width``, the number of all columns."""

    separator: str
    path: int
    label: int | None
    group: int | None
    width: int

    @property
    def in_words(self) -> str:
        wanted = {"path": self.path, "label": self.label, "group": self.group}
        columns = [f"the {name} in column {n + 1}" for name, n in wanted.items() if n is not None]
        return f"separator {SEPARATORS[self.separator]}, {', '.join(columns)}"


def read_label_list(uri: str, group_column: str, *, labelled: bool) -> tuple[list[Line], str]:
    """Read a list, and say how it was read.

    ``labelled`` refuses a list without labels, such as one of a path a line.

    DatasetError with the line that makes no sense.
    """
    lines, name = read_lines(uri), name_of(uri)
    if not lines:
        return [], f"{name}: is empty"
    header = _header(lines[0][1], group_column)
    if header is None:
        separator = _separator(lines, labelled=labelled)
        if separator is None:
            paths = [Line(where, text.strip('"'), "") for where, text in lines]
            return paths, f"{name}: {len(paths)} videos, a path a line"
        _refuse_other_header(lines, separator)
        rows = [(where, _fields_of(where, text, separator)) for where, text in lines]
        header = Header(separator, 0, len(rows[0][1]) - 1, None, len(rows[0][1]))
    elif labelled and header.label is None:
        where, text = lines[0]
        raise DatasetError(f"{where}: {text!r} names no column 'label', 'class' or 'target'")
    else:
        rows = [(where, _split(text, header.separator, header)) for where, text in lines[1:]]
    for where, fields in rows:
        if len(fields) != header.width:
            raise DatasetError(
                f"{where} has {len(fields)} columns, and {lines[0][0]} has {header.width}. Put"
                f" names with a {SEPARATORS[header.separator]} in them into quotes."
            )
        if not fields[header.path]:
            raise DatasetError(f"{where}: {', '.join(fields)!r} has no path")
    found = [
        Line(
            where,
            fields[header.path],
            "" if header.label is None else fields[header.label],
            "" if header.group is None else fields[header.group],
        )
        for where, fields in rows
    ]
    if all("\\" in line.path for line in found):  # written on Windows
        found = [replace(line, path=line.path.replace("\\", "/")) for line in found]
    return found, f"{name}: {len(found)} videos, {header.in_words}"


def _header(text: str, group: str) -> Header | None:
    """Read the first line as a header, if it is one: it names a column of paths, and no video."""
    found: list[Header] = []
    for separator in SEPARATORS:
        fields = split_fields(text, separator)
        if _num_path_fields(fields, separator):
            return None
        names = [field.strip().casefold().replace(" ", "_") for field in fields]
        path, label, groups = (
            next((names.index(name) for name in known if name in names), None)
            for known in (PATH_COLUMNS, LABEL_COLUMNS, (group.casefold().replace(" ", "_"),))
        )
        if path is not None:
            found.append(Header(separator, path, label, groups, len(names)))
    return max(found, key=lambda header: header.label is not None, default=None)


def _refuse_other_header(lines: Sequence[tuple[str, str]], separator: str) -> None:
    where, text = lines[0]
    fields = split_fields(text, separator)
    if _num_path_fields(fields, separator):
        return
    others_are_videos = all(_fits(line, separator, videos_only=True) for _, line in lines[1:])
    if any(field.strip().casefold() in LABEL_COLUMNS for field in fields) or (
        "." not in text and len(lines) > 1 and others_are_videos
    ):
        raise DatasetError(
            f"{where}: {text!r} is neither a video with its label nor a header with the columns"
            " path and label"
        )


def _separator(lines: Sequence[tuple[str, str]], *, labelled: bool) -> str | None:
    """Find the separator of a list without header; None for an unlabelled list of paths alone."""
    for videos_only in (True, False):
        for separator in SEPARATORS:
            if all(_fits(text, separator, videos_only) for _, text in lines):
                return separator
    fitting = {s: sum(_fits(text, s, False) for _, text in lines) for s in SEPARATORS}
    best = max(fitting, key=lambda separator: fitting[separator])
    if not labelled and fitting[best] == 0:
        return None
    raise _unlike_others(*next(line for line in lines if not _fits(line[1], best, False)), best)


def _unlike_others(where: str, text: str, separator: str) -> DatasetError:
    return DatasetError(
        f"{where}: {text!r} is no path and label, with a {SEPARATORS[separator]} between. A list"
        " has one separator in all lines: comma, tab, semicolon or blank."
    )


def _fits(text: str, separator: str, videos_only: bool) -> bool:
    fields = split_fields(text, separator)
    num_leading = _num_path_fields(fields, separator)
    if num_leading == 0:
        return not videos_only and len(fields) > 1
    return len(fields) > num_leading


def split_fields(text: str, separator: str) -> list[str]:
    if '"' in text:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=True))
    return text.split(separator)


def _num_path_fields(fields: Sequence[str], separator: str) -> int:
    """Count the fields of the path, which may hold separators; 0 if there is no video name."""
    for count in range(1, len(fields) + 1):
        if is_video_name(separator.join(fields[:count]).strip().replace("\\", "/").split("/")[-1]):
            return count
    return 0


def _split(text: str, separator: str, header: Header | None = None) -> list[str]:
    """Split a line into its columns; a path in the first one may have the separator in it."""
    fields = split_fields(text, separator)
    if header is None or header.path == 0:
        num_leading = max(1, _num_path_fields(fields, separator))
        fields = [separator.join(fields[:num_leading]), *fields[num_leading:]]
    return [field.strip() for field in fields if separator != " " or field.strip()]


def _fields_of(where: str, text: str, separator: str) -> list[str]:
    """Split a line of a list without header: path, numbers, label."""
    fields = _split(text, separator)
    if len(fields) < 2:
        raise _unlike_others(where, text, separator)
    if not all(re.fullmatch(r"-?[\d.]*", field) for field in fields[1:-1]):
        raise DatasetError(
            f"{where}: {text!r} has columns that are neither path, number nor label. Put names with"
            f" a {SEPARATORS[separator]} in them into quotes, or name the columns in a first line."
        )
    return fields
