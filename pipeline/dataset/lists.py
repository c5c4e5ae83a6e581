"""Annotation lists: text, csv and json, with any line ends and prefixed names.

Every error names the list and the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pipeline.config.schema import DatasetConfig
from pipeline.errors import DatasetError
from pipeline.storage.files import join_uri, list_names, parse_json, read_parsed


def annotations_uri(dataset: DatasetConfig) -> str:
    if dataset.annotations is None:
        raise DatasetError(f"dataset.annotations is required for layout {dataset.layout}")
    return dataset.annotations


def find_lists(
    dataset: DatasetConfig, wanted: Mapping[str, tuple[str, ...]], suffix: str
) -> dict[str, str]:
    """Return the URI of each wanted list, which may have one of several names."""
    annotations = annotations_uri(dataset)
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
                f" {dataset.name}_{spellings[0]}{suffix}; there is {shorten(names)}"
            )
    return lists


def read_lines(uri: str) -> list[tuple[str, str]]:
    """Read a list as (where, line), without empty lines, line ends and blanks around them."""
    lines = enumerate(_read_text(uri).split("\n"), start=1)
    return [(f"{name_of(uri)}, line {n}", text.strip()) for n, text in lines if text.strip()]


def read_table(uri: str, columns: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Read a csv with a header as (where, values by column)."""
    rows = [(where, next(csv.reader([text]))) for where, text in read_lines(uri)]
    header = rows[0][1] if rows else []
    if missing := sorted(set(columns) - set(header)):
        raise DatasetError(f"{uri} has no column {', '.join(missing)}; its columns are {header}")
    for where, values in rows:
        if len(values) != len(header):
            raise DatasetError(f"{where} has {len(values)} values for {len(header)} columns")
    return [(where, dict(zip(header, values, strict=True))) for where, values in rows[1:]]


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
    except ValueError as error:
        raise DatasetError(f"{uri} cannot be read as text: {error}") from error


def integer(text: str, where: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):  # nine digits fit the manifest's int32
        raise DatasetError(f"{where}: {text!r} is not an integer")
    return int(text)


def name_of(uri: str) -> str:
    return uri.rpartition("/")[2]


def shorten(names: Collection[str], count: int = 5) -> str:
    """List the first few names, and say how many there are."""
    first = ", ".join(list(names)[:count]) or "nothing"
    return f"{first}, ... ({len(names)} in all)" if len(names) > count else first
