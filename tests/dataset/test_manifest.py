"""The manifest on disk, and the report about it."""

import csv
import hashlib
import io
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import DatasetConfig
from pipeline.dataset.findings import IndexReport, bad_csv, bad_lines, index_report
from pipeline.dataset.manifest import (
    DIGESTED,
    SCHEMA,
    Manifest,
    VideoRecord,
    build_manifest,
    check_failed_fraction,
    num_classes_of,
    read_manifest,
    write_manifest,
)
from pipeline.errors import DatasetError, Status, StoreIncomplete, TooManyFailedVideos

CLASSES = ("Archery", "Bowling")


def video(name: str, split: str = "train", **more) -> VideoRecord:
    """Make a good video of the class that ``name`` starts with; its bytes are its name."""
    label = CLASSES.index(name.partition("/")[0])
    facts = {"num_frames": 30, "width": 64, "height": 48, "frame_rate": 25.0, "sha256": name}
    return VideoRecord(name, f"{name}.avi", **{"label": label, "split": split, **facts, **more})


def demo() -> Manifest:
    names = [f"{name}/{i}" for name in CLASSES for i in range(6)]
    return build_manifest(
        "demo",
        CLASSES,
        [
            *(video(name) for name in names[::-1]),
            *(video(f"{name}v", "val", group=f"{name}") for name in names),
            video("Archery/x", status=Status.UNREADABLE, reason="zero bytes", num_frames=0),
        ],
    )


@pytest.fixture
def uri(tmp_path) -> str:
    return str(tmp_path / "manifest.parquet")


# --- building -----------------------------------------------------------------------------------


def test_there_is_one_order():
    records = demo().records
    assert [r.split for r in records] == ["train"] * 13 + ["val"] * 12
    assert build_manifest("demo", CLASSES, records[::-1]) == demo()


def test_the_order_is_known():
    """Other releases and other programs find a video at the same row."""
    names = ["Archery/0", "Archery/1", "Archery/Ü", "Bowling/0", "Bowling/1"]
    records = [video("Archery/9", "val"), *(video(name) for name in names)]
    found = [record.sample_id for record in build_manifest("demo", CLASSES, records).records]
    assert found == ["Archery/Ü", "Archery/1", "Bowling/0", "Bowling/1", "Archery/0", "Archery/9"]


def test_neighbours_are_of_any_class():
    num_classes, num_videos = 10, 100
    labels = {f"class {k}/{n}": k for k in range(num_classes) for n in range(num_videos)}
    records = [VideoRecord(name, f"{name}.avi", label, "train") for name, label in labels.items()]
    rows = build_manifest("demo", [], records).records
    equal = [first.label == second.label for first, second in pairwise(rows)]
    share = 1 / num_classes
    deviation = math.sqrt(share * (1 - share) / len(equal))
    assert abs(sum(equal) / len(equal) - share) < 1.96 * deviation  # 95 % of random orders


def test_rows_of_a_split():
    manifest = demo()
    bad = [row for row, record in enumerate(manifest.records) if not record.good]
    assert manifest.rows_of("val") == list(range(13, 25))
    assert sorted(manifest.rows_of("train") + bad) == manifest.rows_of("train", good=False)
    assert manifest.rows_of("test") == []


def test_repeated_sample_ids_are_named():
    records = [video("Archery/1"), video("Archery/2"), video("Archery/1", "val")]
    other = replace(records[0], uri="Archery/1.mp4")
    where = "train Archery/1.avi, val Archery/1.avi, train Archery/1.mp4"
    with pytest.raises(DatasetError, match=rf"more than once: Archery/1 \({where}\) \(1 in all\)"):
        build_manifest("demo", CLASSES, [*records, other])


# --- digest -------------------------------------------------------------------------------------

OTHER = {str: "other", int: 7, float: 7.5}


@pytest.mark.parametrize("name", [field.name for field in SCHEMA])
def test_digest_depends_on_what_decides_a_logit_and_nothing_else(name):
    manifest = demo()
    first = manifest.records[0]
    value = getattr(first, name)
    other = OTHER[int if isinstance(value, int) else type(value)]
    changed = (replace(first, **{name: other}), *manifest.records[1:])
    same = Manifest("demo", CLASSES, changed).digest == manifest.digest
    assert same == (name not in DIGESTED)


def test_digest_does_not_depend_on_the_header_of_a_bad_video():
    manifest = demo()
    records = [r if r.good else replace(r, width=1, height=1) for r in manifest.records]
    assert replace(manifest, records=tuple(records)).digest == manifest.digest


def test_digest_is_known():
    digest = build_manifest("demo", CLASSES, [video("Archery/1"), video("Bowling/2", "val")]).digest
    assert digest == "e7c56eda718a5d728cf07e7de3dfe680861b906aad71f7029a85071e37ac02d0"


# --- storage ------------------------------------------------------------------------------------


def test_round_trip(uri):
    manifest = demo()
    write_manifest(manifest, uri, root="/data")
    again = read_manifest(uri)
    located = [replace(record, uri=f"/data/{record.uri}") for record in manifest.records]
    assert again.records == tuple(located)
    assert (again.dataset, again.class_names) == ("demo", CLASSES)
    moved = read_manifest(uri, root="s3://bucket/videos/")
    assert moved.records[0].uri == f"s3://bucket/videos/{manifest.records[0].uri}"
    assert moved.digest == again.digest == manifest.digest


def test_a_manifest_of_an_older_version(uri):
    write_manifest(demo(), uri, root="/videos")
    table = pq.read_table(uri).drop_columns("notes")
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    del facts["columns_sha256"]
    content = json.dumps([table.to_pylist(), facts], sort_keys=True).encode()
    facts["content_sha256"] = hashlib.sha256(content).hexdigest()
    pq.write_table(table.replace_schema_metadata(facts), uri, write_page_checksum=True)
    assert read_manifest(uri).digest == demo().digest


def test_no_manifest(uri):
    with pytest.raises(StoreIncomplete, match=r"run jobs/index_videos\.py first"):
        read_manifest(uri)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.append_column("more", pa.array([0] * 25)), "other columns"),
        (lambda table: table.drop_columns(["group"]), "other columns"),
        (lambda table: table.replace_schema_metadata(None), "sound manifest"),
        (lambda table: table.slice(1), "was changed after it was written"),
    ],
    ids=["another column", "a column less", "no footer", "a row less"],
)
def test_other_tables(uri, change, message):
    write_manifest(demo(), uri, root="/data")
    pq.write_table(change(pq.read_table(uri)), uri)
    with pytest.raises(DatasetError, match=message):
        read_manifest(uri)


# --- report -------------------------------------------------------------------------------------


def report_of(*records: VideoRecord) -> IndexReport:
    """Report on videos whose rows stand in the order given, as findings do."""
    return index_report(Manifest("demo", CLASSES, records))


def findings(report: IndexReport) -> dict[str, tuple[str, ...]]:
    known = [finding for finding in report.findings if finding.name != "video of no known group"]
    return {finding.name: finding.found for finding in known if finding.found}


def test_nothing_found():
    clean = [
        video(f"{name}/{split}", split, group=f"{name}{split}")
        for name in CLASSES
        for split in ("train", "val")
    ]
    report = report_of(*clean)
    assert findings(report) == {}
    assert report.bad == ()
    assert report.num_videos == report.num_good_videos == {"train": 2, "val": 2}


def test_notes_of_good_videos_are_findings():
    noted = video("Archery/1", notes="size_changes,length_not_declared")
    found = findings(report_of(noted, video("Archery/2", notes="length_not_declared")))
    assert found["size changes on the way"] == ("Archery/1",)
    assert found["length not declared"] == ("Archery/1", "Archery/2")


def test_duplicates():
    report = report_of(
        video("Archery/1", sha256="a"),
        video("Archery/2", sha256="a"),
        video("Archery/3", "val", sha256="a"),
        video("Bowling/1", sha256="b"),
        video("Bowling/2", "val", sha256="c"),
        video("Bowling/3", "val", sha256="c"),
        video("Bowling/4", "val", sha256="b", status=Status.CHANGED),  # in no measurement
        video("Bowling/5", sha256=""),
        video("Bowling/6", sha256=""),  # not hashed
        *(video(f"Archery/{number}", sha256="d") for number in range(4, 9)),
    )
    assert findings(report) == {
        "same bytes in two splits": ("train Archery/1 = train Archery/2 = val Archery/3",),
        "same bytes twice in a split": (
            "Archery/1 = Archery/2",
            "Archery/4 = Archery/5 = Archery/6 = ... (5 in all)",
            "Bowling/2 = Bowling/3",
        ),
        "changed": ("Bowling/4",),
    }


def test_leaks():
    report = report_of(
        video("Archery/1", group="Archery/g01"),
        video("Archery/2", "val", group="Archery/g01"),
        video("Archery/3", "val", group="Archery/g01"),
        video("Bowling/1", group="Bowling/g01"),
        video("Bowling/3", "test", group="Bowling/g02"),
        video("Bowling/2", "val", group="Bowling/g02"),
    )
    assert findings(report) == {
        "group in two splits": ("Archery/g01 (train 1, val 2)", "Bowling/g02 (test 1, val 1)"),
        "val video of a group in train": ("Archery/2", "Archery/3"),
        "class without good test videos": ("Archery",),
    }


def test_bad_videos_and_empty_classes():
    report = report_of(
        video("Archery/1"),
        video("Archery/2", "val"),
        video("Bowling/1", status=Status.TOO_SHORT, reason="3 frames"),
        video("Bowling/2", "val", label=7, status=Status.LABEL_OUT_OF_RANGE, reason="label 7"),
        video("Bowling/3", "val", label=-1, status=Status.NOT_FOUND, reason="not there"),
    )
    assert findings(report) == {
        "not found": ("Bowling/3",),
        "too short": ("Bowling/1",),
        "label not in 0..1": ("Bowling/2 (7)", "Bowling/3 (-1)"),
        "class without good train videos": ("Bowling",),
        "class without good val videos": ("Bowling",),
    }
    assert (report.bad[0].sample_id, report.bad[0].reason) == ("Bowling/1", "3 frames")
    assert (report.num_videos["val"], report.num_good_videos["val"]) == (3, 1)


def test_bad_videos_are_a_csv():
    reason = 'moov "atom", not found'
    report = report_of(
        video("Archery/1"), video("Bowling/1", status=Status.UNREADABLE, reason=reason)
    )
    assert list(csv.DictReader(io.StringIO(bad_csv(report.bad).decode()))) == [
        {"split": "train", "sample_id": "Bowling/1", "status": "unreadable", "reason": reason}
    ]


def test_ten_lines_a_status():
    report = report_of(
        *(video(f"Archery/{n}", status=Status.NOT_FOUND, reason="not there") for n in range(9_000)),
        *(video(f"Bowling/{n}", status=Status.UNREADABLE, reason="damaged") for n in range(10)),
    )
    lines = bad_lines(report.bad)
    assert len(lines) == 20
    assert lines[0] == "bad video: train Archery/0: not there [not found]"
    assert "... and 8991 more [not found]" in lines
    assert bad_csv(report.bad).count(b"\n") == 9_011


def test_the_number_of_classes_is_that_of_the_manifest_where_none_is_set(uri):
    dataset = {"name": "demo", "root": "/data", "layout": "folders"}
    artefacts = uri.removesuffix("/manifest.parquet")
    config = ExperimentConfig.model_validate({"artefacts": artefacts, "dataset": dataset})
    with pytest.raises(StoreIncomplete, match=r"run jobs/index_videos\.py first"):
        num_classes_of(config)
    write_manifest(demo(), uri, root="/data")
    assert num_classes_of(config) == 2


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_missing", "num_unreadable", "limits", "message"),
    [
        (1, 0, {}, None),
        (1, 1, {}, "2 of 100 videos are bad, over dataset.max_failed_fraction 0.01"),
        (9, 1, {"max_missing_fraction": 0.1}, None),
        (
            11,
            0,
            {"max_missing_fraction": 0.1},
            "11 of 100 videos are not there, over dataset.max_m",
        ),
        (9, 2, {"max_missing_fraction": 0.1}, "2 of 100 videos are bad"),
    ],
)
def test_missing_videos_count_apart(num_missing, num_unreadable, limits, message):
    statuses = [Status.NOT_FOUND] * num_missing + [Status.UNREADABLE] * num_unreadable
    statuses += [Status.GOOD] * (100 - len(statuses))
    records = [video(f"Archery/{n}", status=status) for n, status in enumerate(statuses)]
    dataset = DatasetConfig(name="demo", root="/data", layout="folders", **limits)
    with pytest.raises(TooManyFailedVideos, match=message) if message else nullcontext():
        check_failed_fraction(num_missing + num_unreadable, records, dataset)
