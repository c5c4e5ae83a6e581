"""A data set's own annotations, and the search for the videos that they name."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.layouts import READERS, Entry, Folders, group_of, sample_id_of
from pipeline.dataset.lists import shorten
from pipeline.dataset.manifest import VideoRecord, build_manifest
from pipeline.errors import DatasetError, Status


@dataclass(frozen=True)
class Annotated:
    """Classes in label order; annotated videos in manifest order, URIs relative to the root."""

    class_names: tuple[str, ...]
    records: tuple[VideoRecord, ...]


def read_annotations(dataset: DatasetConfig) -> Annotated:
    """Read the annotations and look for the videos, without opening any.

    A video that is missing, or whose label is out of range, becomes a record with that status.

    Raises:
        DatasetError: if the annotations are not there or make no sense, if they have another
            number of classes, list a video twice, or name no video that is there.

    """
    folders = Folders(dataset.root)
    class_names, entries = READERS[dataset.layout](dataset, folders)
    if len(class_names) != dataset.num_classes:
        raise DatasetError(
            f"dataset.num_classes is {dataset.num_classes}, and the annotations of {dataset.name}"
            f" have {len(class_names)} classes: {shorten(class_names)}. Correct one of the two."
        )
    records = tuple(_record(entry, folders, dataset.num_classes) for entry in entries)
    if all(record.status == Status.NOT_FOUND for record in records):
        raise DatasetError(
            f"none of the {len(records)} annotated videos is below dataset.root {dataset.root}:"
            f" looked for {shorten([record.uri for record in records])}, and there is"
            f" {shorten(folders.names())}. Correct dataset.root or dataset.layout."
        )
    # build_manifest sorts and finds repeated videos, before hours are spent on probing them.
    return Annotated(class_names, build_manifest(dataset.name, class_names, records).records)


def _record(entry: Entry, folders: Folders, num_classes: int) -> VideoRecord:
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
        sample_id=sample_id_of(entry.paths[0]),
        uri=found or entry.paths[0],
        label=entry.label,
        split=entry.split,
        group=group_of(entry.paths[0]),
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
