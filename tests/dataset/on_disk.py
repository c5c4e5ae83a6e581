"""Annotations and trees of empty files, as data sets come."""

import os
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.annotations import Annotated, read_annotations
from pipeline.dataset.findings import IndexReport, index_report
from pipeline.dataset.manifest import Manifest

REPOSITORY = Path(__file__).parents[2]
EXTRACTS = REPOSITORY / "tests" / "data"
FULL_LISTS = Path(os.environ.get("DVFLNET_LISTS", REPOSITORY.parent / "shared" / "data" / "splits"))
needs_full_lists = pytest.mark.skipif(
    not FULL_LISTS.is_dir(), reason=f"no full lists in {FULL_LISTS}; set DVFLNET_LISTS"
)


def make_videos(root: Path, paths) -> None:
    for folder in {Path(path).parent for path in paths}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path in paths:
        (root / path).touch()


def make_lists(folder: Path, **lists: str) -> Path:
    """Write lists, ``train_csv="..."`` as ``train.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in lists.items():
        (folder / (name if "." in name else name.replace("_", "."))).write_bytes(text.encode())
    return folder


def read(
    layout: str, root: Path, annotations: Path | None, num_classes: int | None, **more
) -> Annotated:
    return read_annotations(
        DatasetConfig(
            name=more.pop("name", "demo"),
            root=str(root),
            layout=layout,
            annotations=None if annotations is None else str(annotations),
            num_classes=num_classes,
            **more,
        )
    )


def counts(annotated: Annotated) -> Counter:
    return Counter(record.split for record in annotated.records)


def report_of(annotated: Annotated) -> IndexReport:
    manifest = Manifest("demo", annotated.class_names, annotated.records)
    return index_report(manifest, annotated.left_out)


def found(report: IndexReport, name: str) -> tuple[str, ...]:
    return next(finding.found for finding in report.findings if finding.name == name)
