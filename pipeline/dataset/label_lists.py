"""Lists of ``path,label`` as people write them: any separator, a header or none, names or numbers.

A line is a path, other columns if there are any, and a label. A header (``path,label``) allows
columns in any order, and one with groups. All lines of a list have the same separator.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.dataset.folders import is_video_name
from pipeline.dataset.lists import name_of, read_lines
from pipeline.errors import DatasetError

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
    fields = [field.strip().casefold() for field in split_fields(text, separator)]
    if _num_path_fields(fields, separator):
        return None
    path = next((fields.index(name) for name in PATH_COLUMNS if name in fields), None)
    label = next((fields.index(name) for name in LABEL_COLUMNS if name in fields), -1)
    if path is not None:
        return Header(
            path,
            label,
            fields.index(group.casefold()) if group.casefold() in fields else None,
            len(fields),
        )
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
    fields = split_fields(text, separator)
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
