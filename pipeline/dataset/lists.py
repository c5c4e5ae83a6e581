"""Annotation lists: text, csv and json, with any line ends and prefixed names.

Every error names the list and the line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.folders import shorten
from pipeline.errors import DatasetError
from pipeline.storage.files import join_uri, list_names, parse_json, read_parsed


def annotations_uri(dataset: DatasetConfig) -> str:
    if dataset.annotations is None:
        raise DatasetError(f"dataset.annotations is required for layout {dataset.layout}")
    return dataset.annotations


def find_lists(
    dataset: DatasetConfig, wanted: Mapping[str, tuple[str, ...]], suffixes: Sequence[str]
) -> dict[str, str]:
    """Return the URI of each wanted list, which may have one of several names.

    The first suffix that any file has is meant. A test list may be missing, and so may one of val
    where ``dataset.val_fraction`` cuts val off train.
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
    """Read a csv with a header: its columns, and (where, values by column) of every line."""
    rows = [(where, next(csv.reader([text]))) for where, text in read_lines(uri)]
    header = rows[0][1] if rows else []
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
