"""A data set's own annotations, and the search for the videos that they name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.folders import Folders, path_below, sample_id_of, shorten
from pipeline.dataset.groups import VAL_SHARE, choose_val, group_of
from pipeline.dataset.layouts import READERS, Entry, read_unlabelled
from pipeline.dataset.manifest import VideoRecord, build_manifest
from pipeline.errors import DatasetError, Status, printable

LIKELY_WRONG_ROOT = 0.5  # if more than this share of the videos is missing, doubt dataset.root


@dataclass(frozen=True)
class Annotated:
    """Classes in label order; annotated videos in manifest order, URIs relative to the root.

    ``notes`` say how the annotations were read; ``left_out`` are files that are no videos of the
    data set, with the reason; ``doubt`` says if ``dataset.root`` is likely wrong.
    """

    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    doubt: str = ""


def read_annotations(dataset: DatasetConfig) -> Annotated:
    """Read the annotations and look for the videos, without opening any.

    A video that is missing, or whose name or label cannot be used, becomes a record with a status.

    DatasetError if the annotations are missing or malformed, or no video they name exists.
    """
    folders = Folders(dataset.root)
    found = READERS[dataset.layout](dataset, folders)
    if not found.entries or not found.class_names:
        lists = f"the lists in dataset.annotations {dataset.annotations}"
        raise DatasetError(f"{lists} name no video with a label")
    class_names, notes = found.class_names, list(found.notes)
    if dataset.num_classes not in (None, len(class_names)):
        raise DatasetError(
            f"dataset.num_classes is {dataset.num_classes}, and the annotations of {dataset.name}"
            f" have {len(class_names)} classes: {shorten(class_names)}. Correct one of the two."
        )
    records = [_record(entry, folders, class_names, dataset.groups) for entry in found.entries]
    more, entries = read_unlabelled(dataset, folders), [*found.entries]
    taken = {name for record in records for name in (record.uri, record.sample_id) if name}
    for entry in more.entries:
        record = _record(entry, folders, class_names, dataset.groups)
        if not taken & {record.uri, record.sample_id}:  # else a list has named it already
            records.append(record)
            entries.append(entry)
    notes += more.notes
    num_unlabelled = sum(record.label is None for record in records)
    if num_unlabelled or dataset.unlabelled:
        notes.append(f"{num_unlabelled} videos of train have no label")
    if dataset.groups not in ("auto", "none") and not any(record.group for record in records):
        raise DatasetError(
            f"dataset.groups is {dataset.groups!r}, and no video has such a group: the first one is"
            f" {printable(found.entries[0].paths[0])}. Rules are auto, ucf, hmdb, kinetics, none."
            " Else it is a column that the lists name in their first line, or a regular expression"
            " with one group, as _g(\\d+)."
        )
    converted = [
        record.uri
        for entry, record in zip(entries, records, strict=True)
        if record.good
        and entry.suffixes == ("",)
        and PurePosixPath(entry.paths[0]).suffix.lower() != PurePosixPath(record.uri).suffix.lower()
    ]
    if converted:
        first = shorten(converted, 1)
        notes.append(f"{len(converted)} videos have another suffix than in their list: {first}")
    doubt = _doubt_root(records, folders)
    if found.whole or dataset.val_fraction is not None:
        records, note = _with_val(records, dataset, whole=found.whole)
        notes.append(note)
    # build_manifest sorts and finds repeated videos, before hours are spent on probing them.
    manifest = build_manifest(dataset.name, class_names, records)
    omitted = dict([*more.left_out, *found.left_out])
    left_out = tuple((printable(path), reason) for path, reason in omitted.items())
    notes += [doubt] if doubt else []
    return Annotated(class_names, manifest.records, tuple(notes), left_out, doubt)


def _record(entry: Entry, folders: Folders, class_names: Sequence[str], groups: str) -> VideoRecord:
    """Look for a video; one that cannot be used gets a status and a reason."""
    named = sample_id_of if entry.suffixes == ("",) else printable
    record = VideoRecord(named(entry.paths[0]), "", entry.label, entry.split)
    try:  # checks the first path only: the others are made of its parts
        paths = (path_below(folders.root, entry.paths[0]), *entry.paths[1:])
    except ValueError as error:
        reason = f"{printable(entry.paths[0])!r} of {entry.where} {error}"
        return replace(record, status=Status.BAD_NAME, reason=reason)
    sample_id = named(paths[0])
    label = entry.label
    known = label is None or 0 <= label < len(class_names)
    class_name = "" if label is None or not known else class_names[label]
    group = group_of(groups, sample_id, class_name, entry.group)
    record = replace(record, sample_id=sample_id, uri=paths[0], group=group)
    tried = (path + suffix for path in paths for suffix in entry.suffixes)
    uri = next((uri for path in tried if (uri := folders.find(path))), None)
    if uri is None and entry.suffixes == ("",):
        uri = folders.find_converted(paths[0])
    if uri is None:
        reason = f"named by {entry.where}, and not there: looked for {_tried(entry, paths)}"
        return replace(record, status=Status.NOT_FOUND, reason=reason)
    if not known:
        reason = f"label {label} of {entry.where} is not in 0..{len(class_names) - 1}"
        return replace(record, uri=uri, status=Status.LABEL_OUT_OF_RANGE, reason=reason)
    return replace(record, uri=uri)


def _tried(entry: Entry, paths: Sequence[str]) -> str:
    suffixes = ", ".join(filter(None, entry.suffixes))
    endings = f" with {suffixes}" if suffixes else ", and for other suffixes of videos"
    if len(paths) == 1:
        return paths[0] + endings
    folders = ", ".join(path.rpartition("/")[0] for path in paths)
    return f"{paths[0].rpartition('/')[2]}{endings} in {folders}"


def _doubt_root(records: Collection[VideoRecord], folders: Folders) -> str:
    """Return a warning if so many videos are missing that the root is doubted; raise if all are."""
    missing = [record for record in records if record.status == Status.NOT_FOUND]
    refused = [record for record in records if record.status == Status.BAD_NAME]
    if refused and len(refused) == len(records):
        raise DatasetError(f"no video has a name that can be used: {refused[0].reason}")
    if len(missing) <= LIKELY_WRONG_ROOT * len(records):
        return ""
    num_there = len(records) - len(missing) - len(refused)
    text = (
        f"{num_there or 'none'} of the {len(records)} annotated videos"
        f" {'is' if num_there < 2 else 'are'} below dataset.root {folders.root}: looked for"
        f" {shorten(record.uri for record in missing)}, and there is {shorten(folders.names())}."
        " Correct dataset.root or dataset.layout."
    )
    if not num_there:
        raise DatasetError(text)
    return text


def _with_val(
    records: Collection[VideoRecord], dataset: DatasetConfig, *, whole: bool
) -> tuple[list[VideoRecord], str]:
    """Cut ``val`` off train; the second of two official lists becomes ``test``."""
    splits = {record.split for record in records}
    if {"val", "test"} <= splits:
        raise DatasetError(
            f"dataset.val_fraction is {dataset.val_fraction}, and {dataset.name} has val and test"
            " already. Leave it out, or remove one of the two lists."
        )
    train = [r for r in records if r.split == "train" and r.label is not None]
    share = dataset.val_fraction or VAL_SHARE
    val, how = choose_val(train, share, by_parts=dataset.val_fraction is not None)
    divided = []
    for record in records:
        cut = "val" if record.sample_id in val else "train"
        divided.append(replace(record, split=cut if record.split == "train" else "test"))
    source = "nothing names videos of val" if whole else f"dataset.val_fraction is {share:g}"
    second = "; the videos that are val by the lists are test" if "val" in splits else ""
    return divided, f"{source}: {len(val)} of {len(train)} train videos are val, {how}{second}"
