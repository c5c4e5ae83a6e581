"""Official lists, published lists and hostile lists, on trees of empty files."""

import json
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from pipeline.dataset import folders
from pipeline.dataset.manifest import build_manifest, read_manifest, write_manifest
from pipeline.errors import DatasetError, Status
from pipeline.storage.files import list_names
from tests.dataset.on_disk import (
    EXTRACTS,
    FULL_LISTS,
    REPOSITORY,
    counts,
    found,
    make_lists,
    make_videos,
    needs_full_lists,
    read,
    report_of,
)


def ucf_paths(folder: Path, number: int = 1) -> list[str]:
    lists = [folder / f"{name}list{number:02d}.txt" for name in ("train", "test")]
    return [line.split()[0] for uri in lists for line in uri.read_text().splitlines()]


def hmdb_paths(folder: Path, number: int = 1) -> list[str]:
    ending = f"_test_split{number}.txt"
    return [
        f"{uri.name.removesuffix(ending)}/{line.split()[0]}"
        for uri in sorted(folder.glob(f"*{ending}"))
        for line in uri.read_text().splitlines()
    ]


def csv_paths(folder: Path, name: str) -> list[str]:
    lists = [folder / f"{name}_{split}.csv" for split in ("train", "val")]
    return [line.split(",")[0] for uri in lists for line in uri.read_text().splitlines()]


# --- UCF101 -------------------------------------------------------------------------------------


def test_ucf101_with_crlf_and_the_official_class_order(tmp_path):
    make_videos(tmp_path, ucf_paths(EXTRACTS / "ucf101"))
    annotated = read("ucf101", tmp_path, EXTRACTS / "ucf101", 101)

    assert counts(annotated) == {"train": 101, "val": 101}
    assert annotated.class_names[0] == "ApplyEyeMakeup"
    assert annotated.class_names[100] == "YoYo"
    assert all(record.good for record in annotated.records)
    videos = {record.sample_id: record for record in annotated.records}
    video = videos["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01"]
    assert video.uri == "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    assert (video.label, video.split, video.group) == (0, "train", "ApplyEyeMakeup/g08")
    assert not found(report_of(annotated), "group in two splits")


LEAK, SHARED = "val video of a group in train", "group in two splits"


@needs_full_lists
@pytest.mark.parametrize(
    ("layout", "paths", "folder", "num_classes", "num_videos", "finding", "num_found", "more"),
    [
        ("ucf101", ucf_paths, "ucf101", 101, (9537, 3783), SHARED, 0, {"split_number": 1}),
        ("ucf101", ucf_paths, "ucf101", 101, (9586, 3734), SHARED, 0, {"split_number": 2}),
        ("ucf101", ucf_paths, "ucf101", 101, (9624, 3696), SHARED, 0, {"split_number": 3}),
        # Clips of a film are kept together in a class, and not across classes.
        ("hmdb51", hmdb_paths, "hmdb51", 51, (3570, 1530), SHARED, 133, {}),
        (
            "path_label_csv",
            csv_paths,
            "dvflnet-repo",
            50,
            (5360, 1321),
            LEAK,
            88,
            {"name": "ucf50"},
        ),
        (
            "path_label_csv",
            csv_paths,
            "dvflnet-repo",
            101,
            (10690, 2630),
            LEAK,
            223,
            {"name": "ucf101"},
        ),
    ],
)
def test_full_lists(
    tmp_path, layout, paths, folder, num_classes, num_videos, finding, num_found, more
):
    lists = FULL_LISTS / folder
    make_videos(tmp_path, paths(lists, *more.values()))
    annotated = read(layout, tmp_path, lists, num_classes, **more)
    assert counts(annotated) == dict(zip(("train", "val"), num_videos, strict=True))
    assert all(record.good and record.group for record in annotated.records)
    report = report_of(annotated)
    assert len(found(report, finding)) == num_found
    assert num_found or not any(finding.found for finding in report.findings)


def test_converted_videos_are_found_and_that_is_said(tmp_path):
    make_videos(tmp_path, ["A/a.MP4", "B/b.avi"])
    annotated = read("ucf101", tmp_path, ucf_lists(tmp_path / "lists"), 2)
    assert [(r.sample_id, r.uri) for r in annotated.records] == [
        ("A/a", "A/a.MP4"),
        ("B/b", "B/b.avi"),
    ]
    assert annotated.notes == ("1 videos have another suffix than in their list: A/a.MP4",)


@pytest.mark.parametrize("folder", ["HandstandPushups", "HandStandPushups", "handstandpushups"])
@pytest.mark.parametrize("stem", ["v_HandStandPushups", "v_HandstandPushups"])
def test_case_of_handstand_pushups_is_forgiven(tmp_path, folder, stem):
    lists = make_lists(
        tmp_path / "lists",
        classInd_txt="1 HandstandPushups\n",
        trainlist01_txt="HandstandPushups/v_HandStandPushups_g08_c01.avi 1\r\n",
        testlist01_txt="HandStandPushups/v_HandStandPushups_g01_c01.avi\r\n",
    )
    names = [f"{folder}/{stem}_g08_c01.avi", f"{folder}/{stem}_g01_c01.avi"]
    make_videos(tmp_path / "videos", names)
    annotated = read("ucf101", tmp_path / "videos", lists, 1)
    assert [record.uri for record in annotated.records] == names
    assert [record.label for record in annotated.records] == [0, 0]
    # The annotation names the video, so that a copy with another case has the same sample_id.
    assert annotated.records[0].sample_id == "HandstandPushups/v_HandStandPushups_g08_c01"


def test_exact_case_wins(tmp_path):
    lists = make_lists(tmp_path / "lists", train_csv="a/x.avi,0\na/X.avi,0\n", val_csv="a/y.avi,0")
    make_videos(tmp_path / "videos", ["a/x.avi", "a/X.avi", "a/y.avi"])
    annotated = read("path_label_csv", tmp_path / "videos", lists, 1)
    uris = {record.sample_id: record.uri for record in annotated.records}
    assert uris == {"a/X": "a/X.avi", "a/x": "a/x.avi", "a/y": "a/y.avi"}


def ucf_lists(folder: Path, class_ind="1 A\n2 B\n", train="A/a.avi 1\n", test="B/b.avi\n") -> Path:
    return make_lists(folder, classInd_txt=class_ind, trainlist01_txt=train, testlist01_txt=test)


# --- HMDB51 -------------------------------------------------------------------------------------


def test_hmdb51_with_codes_and_trailing_blanks(tmp_path):
    make_videos(tmp_path, hmdb_paths(EXTRACTS / "hmdb51"))
    annotated = read("hmdb51", tmp_path, EXTRACTS / "hmdb51", 3)

    assert annotated.class_names == ("brush_hair", "climb", "climb_stairs")
    assert counts(annotated) == {"train": 12, "val": 12}  # four of each code and class
    groups = {record.sample_id: record.group for record in annotated.records}
    film = "(HQ)_Rock_Climbing_-_Free_Solo_Speed_Climb_-_Dan_Osman"
    assert groups[f"climb/{film}_climb_f_cm_np1_ba_med_0"] == film
    assert groups["climb_stairs/BATMAN_BEGINS_climb_stairs_f_cm_np1_ba_bad_15"] == "BATMAN_BEGINS"


# --- path,label lists ---------------------------------------------------------------------------


def test_published_hmdb51_labels_count_from_2(tmp_path):
    make_videos(tmp_path, csv_paths(EXTRACTS / "published", "hmdb51"))
    annotated = read("path_label_csv", tmp_path, EXTRACTS / "published", 51)
    assert counts(annotated) == {"train": 51, "val": 51}
    assert all(record.good for record in annotated.records)
    published = (REPOSITORY / "configs/classes/hmdb51_published.txt").read_text().splitlines()
    assert annotated.class_names == tuple(published)
    assert annotated.notes[-1] == ("labels count from 2 to 52: label 2 of the lists is class 0")
    assert not found(report_of(annotated), "class folder with another label")


def test_labels_that_are_too_large(tmp_path):
    lists = make_lists(tmp_path / "lists", train_csv="A/a.avi,0\nB/b.avi,1\n", val_csv="B/c.avi,2")
    make_videos(tmp_path, ["A/a.avi", "B/b.avi", "B/c.avi"])
    annotated = read("path_label_csv", tmp_path, lists, 2)
    (bad,) = (record for record in annotated.records if not record.good)
    assert (bad.status, bad.label) == (Status.LABEL_OUT_OF_RANGE, 2)
    assert bad.reason == "label 2 of val.csv, line 1 is not in 0..1"
    report = report_of(annotated)
    assert found(report, "label not in 0..1") == ("B/c (2)",)
    assert found(report, "class without good val videos") == ("A", "B")


def test_folder_with_two_labels_is_reported(tmp_path):
    lists = make_lists(
        tmp_path / "lists", train_csv="A/a.avi,0\nA/b.avi,0\nA/c.avi,1\nB/d.avi,1\n", val_csv=""
    )
    make_videos(tmp_path, ["A/a.avi", "A/b.avi", "A/c.avi", "B/d.avi"])
    annotated = read("path_label_csv", tmp_path, lists, 2)
    assert annotated.class_names == ("A", "B")
    assert found(report_of(annotated), "class folder with another label") == (
        "A has label 1 of B (1 videos)",
    )


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../A/a.avi", "leads out of dataset.root"),
        ("A/../../a.avi", "leads out of dataset.root"),
        ("/etc/A/a.avi", "is not below dataset.root"),
        ("~/a.avi", "is not below dataset.root"),
        ("C:\\A\\a.avi", "is not below dataset.root"),
        ("file:///A/a.avi", "is not below dataset.root"),
        ("A\\a.avi", "has a backslash"),
        ("A/a\0.avi", "has a zero byte"),
        ("zip::A/a.avi", "has '::'"),
        (".", "leads out of dataset.root"),
    ],
)
def test_a_path_that_could_leave_the_root_is_a_bad_video(tmp_path, path, reason):
    lists = make_lists(tmp_path / "lists", train_csv=f"A/x.avi,0\r\n{path},0\r\n", val_csv="")
    make_videos(tmp_path, ["A/x.avi", "A/a.avi"])
    annotated = read("path_label_csv", tmp_path, lists, 1)
    good = [record.uri for record in annotated.records if record.good]
    assert good == ["A/x.avi"]
    (bad,) = (record for record in annotated.records if not record.good)
    assert (bad.status, bad.uri, bad.label) == (Status.BAD_NAME, "", 0)
    assert f"of train.csv, line 2 {reason}" in bad.reason
    assert "\0" not in bad.sample_id


def test_no_usable_name_at_all(tmp_path):
    lists = make_lists(tmp_path / "lists", train_csv="a::b.avi,0", val_csv="")
    with pytest.raises(DatasetError, match=r"no video has a name that can be used: 'a::b.avi'"):
        read("path_label_csv", tmp_path, lists, 1)


@pytest.mark.parametrize("path", ["A//a.avi", "./A/a.avi", "{root}/A/a.avi"])
def test_paths_may_be_written_in_other_ways(tmp_path, path):
    make_videos(tmp_path, ["A/a.avi"])
    lists = make_lists(tmp_path / "lists", train_csv=f"{path},0".format(root=tmp_path), val_csv="")
    (record,) = read("path_label_csv", tmp_path, lists, 1).records
    assert (record.sample_id, record.uri, record.good) == ("A/a", "A/a.avi", True)


# --- Kinetics -----------------------------------------------------------------------------------

HEADER = "label,youtube_id,time_start,time_end,split\n"
ESCAPING = f"{HEADER}../a,b,0,10,train\nc,d,0,10,train\n"


def kinetics_lists(folder: Path) -> Path:
    return make_lists(
        folder,
        train_csv=f'{HEADER}riding a bike,-0aaaaaaaaa,1,11,train\n"a, b",bbbbbbbbbbb,0,10,train\n',
        validate_csv=f"{HEADER}riding a bike,-0aaaaaaaaa,30,40,validate\n",
    )


@pytest.mark.parametrize(
    "path",
    [
        "train/riding a bike/-0aaaaaaaaa_000001_000011.mp4",
        "train/riding_a_bike/-0aaaaaaaaa_000001_000011.mp4",
        "train/-0aaaaaaaaa_000001_000011.mp4",
        "riding a bike/-0aaaaaaaaa_000001_000011.mp4",
        "riding_a_bike/-0aaaaaaaaa_000001_000011.mp4",
    ],
)
def test_kinetics_layouts(tmp_path, path):
    make_videos(tmp_path / "videos", [path, "validation/riding_a_bike/x.mp4"])
    annotated = read("kinetics_csv", tmp_path / "videos", kinetics_lists(tmp_path / "lists"), 2)

    assert annotated.class_names == ("a, b", "riding a bike")
    videos = {record.sample_id: record for record in annotated.records}
    video = videos["train/riding a bike/-0aaaaaaaaa_000001_000011"]  # wherever it is
    assert (video.uri, video.label, video.good) == (path, 1, True)
    missing = videos["val/riding a bike/-0aaaaaaaaa_000030_000040"]
    assert (missing.split, missing.status) == ("val", Status.NOT_FOUND)
    assert missing.reason == (
        "named by validate.csv, line 2, and not there: looked for -0aaaaaaaaa_000030_000040 with"
        " .mp4, .mkv, .webm in "
        + "".join(
            f"{split}/riding a bike, {split}/riding_a_bike, "
            for split in ("val", "validate", "validation", "valid")
        )
        + "val, validate, validation, valid, riding a bike, riding_a_bike"
    )
    assert {video.group, missing.group} == {"-0aaaaaaaaa"}  # one recording in two splits


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_kinetics_as_downloaded(tmp_path, suffix):
    make_videos(tmp_path / "videos", [f"train/-0aaaaaaaaa_000001_000011{suffix}"])
    lists = kinetics_lists(tmp_path / "lists")
    make_lists(lists, test_csv="youtube_id,time_start,time_end,split\nccccccccccc,0,10,test\n")
    annotated = read("kinetics_csv", tmp_path / "videos", lists, None)
    assert [r.uri for r in annotated.records if r.good] == [
        f"train/-0aaaaaaaaa_000001_000011{suffix}"
    ]
    assert annotated.notes[0] == "test.csv: has no labels and is left out"
    assert counts(annotated) == {"train": 2, "val": 1}


# --- Something-Something ------------------------------------------------------------------------


PUTTING = "Putting [something]"


def ssv2_lists(folder: Path, train=None, labels=None) -> Path:
    folder.mkdir()
    lists = {
        "labels": labels or {"Putting something": "1", "Holding something": "0"},
        "train": train or [{"id": "7", "template": PUTTING}],
        "validation": [{"id": "8", "template": "Holding [something]"}],
        "test": [{"id": "9"}],  # the official one has no templates
    }
    for name, content in lists.items():
        (folder / f"something-something-v2-{name}.json").write_text(json.dumps(content))
    return folder


def test_ssv2_has_its_own_label_order(tmp_path):
    make_videos(tmp_path / "videos", ["7.webm", "8.mp4"])
    annotated = read("ssv2_json", tmp_path / "videos", ssv2_lists(tmp_path / "lists"), 2)
    assert annotated.class_names == ("Holding something", "Putting something")
    rows = [(r.sample_id, r.uri, r.label, r.split, r.group) for r in annotated.records]
    assert rows == [("7", "7.webm", 1, "train", ""), ("8", "8.mp4", 0, "val", "")]
    assert not found(report_of(annotated), "class folder with another label")


# --- folders ------------------------------------------------------------------------------------


def test_folders_with_splits(tmp_path):
    paths = ["train/b/1.avi", "train/a/2.MP4", "val/a/3.avi", "test/b/4.webm"]
    make_videos(tmp_path, [*paths, "train/a/Thumbs.db", "train/notes/read.txt", "val/a/._3.avi"])
    annotated = read("folders", tmp_path, None, 2)
    assert annotated.class_names == ("a", "b")
    assert {record.uri for record in annotated.records} == set(paths)
    assert counts(annotated) == {"train": 2, "val": 1, "test": 1}


def test_videos_deeper_down_are_of_the_first_folder(tmp_path):
    paths = ["walk/take1/1.mp4", "walk/take2/a/7.3gp", "run/take2/8.ts", "run/9.mp4"]
    make_videos(tmp_path, paths)
    (tmp_path / "jump").symlink_to(tmp_path / "walk")
    (tmp_path / "walk" / "circle").symlink_to(tmp_path)
    annotated = read("folders", tmp_path, None, None)
    assert annotated.class_names == ("jump", "run", "walk")
    uris = {r.uri: annotated.class_names[r.label] for r in annotated.records}
    assert {uri: name for uri, name in uris.items() if name != "jump"} == {
        path: path.partition("/")[0] for path in paths
    }
    assert len(uris) == 6


def test_files_that_are_left_out_are_listed(tmp_path):
    make_videos(
        tmp_path,
        [
            "train/a/1.mp4",
            "val/a/2.mp4",
            "test/9.mp4",
            "extra/a/3.mp4",
            "list.txt",
            "train/b.txt",
            "train/a/._1.mp4",
            "train/.cache/1.mp4",
            "train/a/4.mp5",
            "train/a/README",
        ],
    )
    report = report_of(read("folders", tmp_path, None, 1))
    assert {f.name: f.found for f in report.findings if f.name.startswith("left out")} == {
        "left out: hidden": ("train/.cache/1.mp4", "train/a/._1.mp4"),
        "left out: .txt is no suffix of a video": ("list.txt", "train/b.txt"),
        "left out: .mp5 is no suffix of a video": ("train/a/4.mp5",),
        "left out: no suffix": ("train/a/README",),
        "left out: beside test and train and val": ("extra/a/3.mp4",),
        "left out: a test video without a class folder": ("test/9.mp4",),
    }


@pytest.mark.parametrize(
    ("tops", "message"),
    [
        (("train", "test"), "has test, train, and no videos below val.*val_fraction"),
        (("Train",), "has Train, and no videos below val"),
        (("validation", "test"), "has test, validation and no videos below train"),
    ],
)
def test_folders_of_splits_that_lack_one(tmp_path, tops, message):
    make_videos(tmp_path, [f"{top}/{name}/{n}.mp4" for top in tops for name in "ab" for n in "123"])
    with pytest.raises(DatasetError, match=message):
        read("folders", tmp_path, None, 2)
    if "train" in tops:
        annotated = read("folders", tmp_path, None, 2, val_fraction=0.4)
        assert counts(annotated) == {"train": 4, "val": 2, "test": 6}


def test_validation_is_val_and_train_may_be_a_class(tmp_path):
    make_videos(tmp_path / "a", ["training/x/1.mp4", "valid/x/2.mp4", "test/x/3.mp4"])
    assert counts(read("folders", tmp_path / "a", None, 1)) == {"train": 1, "val": 1, "test": 1}
    make_videos(tmp_path / "b", [f"{name}/{n}.mp4" for name in ("bus", "train") for n in "12"])
    assert read("folders", tmp_path / "b", None, None).class_names == ("bus", "train")


def test_folders_without_splits_keep_groups_together(tmp_path):
    paths = [
        f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for name in ("A", "B", "C")
        for group in range(1, 26)
        for clip in (1, 2)
    ]
    make_videos(tmp_path, paths)
    annotated = read("folders", tmp_path, None, 3)
    assert counts(annotated) == {"train": 120, "val": 30}  # 5 of 25 groups in each class
    val = {record.group for record in annotated.records if record.split == "val"}
    assert len({group.partition("/")[2] for group in val}) == 5  # and the same in all classes
    assert not found(report_of(annotated), "group in two splits")
    assert read("folders", tmp_path, None, 3) == annotated


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a/1.avi", "2.avi"], r"2\.avi is a video outside the class folders"),
        (["a/1.avi", "a/1.mp4", "a/2.mp4"], "listed more than once: a/1"),
    ],
)
def test_folders_that_are_refused(tmp_path, paths, message):
    make_videos(tmp_path, paths)
    with pytest.raises(DatasetError, match=message):
        read("folders", tmp_path, None, 1)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_list", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_have_two_spellings(tmp_path, in_list, on_disk):
    listed, there = (unicodedata.normalize(form, "Café/Ö.mp4") for form in (in_list, on_disk))
    make_videos(tmp_path, [there])
    lists = make_lists(tmp_path / "lists", train_csv=f"{listed},0\n", val_csv="")
    (record,) = read("path_label_csv", tmp_path, lists, None).records
    assert (record.uri, record.good, record.sample_id) == (there, True, listed.removesuffix(".mp4"))


def test_names_that_cannot_be_used_are_bad_videos(tmp_path):
    make_videos(tmp_path, ["a/1.mp4", "a/2.mp4", "a/x::y.mp4", "a/back\\slash.mp4", "a::b/3.mp4"])
    for folder in (b"a", b"\xe9t\xe9"):
        os.makedirs(os.fsencode(tmp_path) + b"/" + folder, exist_ok=True)
        open(os.fsencode(tmp_path) + b"/" + folder + b"/\xe9t\xe9.mp4", "w").close()
    annotated = read("folders", tmp_path, None, None)
    assert annotated.class_names == ("a", "a::b", "\\xe9t\\xe9")
    assert {r.sample_id for r in annotated.records if r.good} == {"a/1", "a/2"}
    bad = {r.sample_id: r.reason for r in annotated.records if r.status == Status.BAD_NAME}
    assert set(bad) == {
        "a/x::y",
        "a/back\\slash",
        "a::b/3",
        "a/\\xe9t\\xe9",
        "\\xe9t\\xe9/\\xe9t\\xe9",
    }
    assert "is not UTF-8; rename the file" in bad["a/\\xe9t\\xe9"]
    manifest = build_manifest("demo", annotated.class_names, annotated.records)
    write_manifest(manifest, str(tmp_path / "manifest.parquet"), root=str(tmp_path))
    assert read_manifest(str(tmp_path / "manifest.parquet")).digest == manifest.digest


# --- what all layouts share ---------------------------------------------------------------------


MAKE_LISTS = {
    "ucf101": ucf_lists,
    "hmdb51": lambda folder, **classes: make_lists(
        folder, **{f"{name}_test_split1.txt": text for name, text in classes.items()}
    ),
    "path_label_csv": lambda folder, train: make_lists(folder, train_csv=train, val_csv=""),
    "kinetics_csv": lambda folder, train: make_lists(folder, train_csv=train, val_csv=HEADER),
    "ssv2_json": ssv2_lists,
}


@pytest.mark.parametrize(
    ("layout", "lists", "message"),
    [
        ("ucf101", {"class_ind": "1 A\n3 B\n"}, "classInd.txt: labels must be 1..2"),
        ("ucf101", {"class_ind": "1 A\n1 B\n"}, "classInd.txt: labels must be 1..2"),
        ("ucf101", {"class_ind": "A 1\nB 2\n"}, "classInd.txt, line 1: 'A' is not an integer"),
        ("ucf101", {"test": "B/b.avi\nC/c.avi\n"}, "list01.txt, line 2: 'C' is not in classInd"),
        ("ucf101", {"train": "A/a.avi one\n"}, "list01.txt, line 1: 'one' is not an integer"),
        ("ucf101", {"train": "A/a.avi 1\nA/a.avi 1\n"}, "listed more than once: A/a"),
        ("ucf101", {"test": "A/a.avi\n"}, "listed more than once: A/a"),
        ("ucf101", {"train": "", "test": ""}, "name no video"),
        ("hmdb51", {"wave": "a.avi 1 \nb.avi 3 \n"}, "line 2: the code is '3'"),
        ("kinetics_csv", {"train": "split\n"}, "no column label, time_end, time_start, youtube_id"),
        ("kinetics_csv", {"train": ""}, "has no column label"),
        ("kinetics_csv", {"train": f"{HEADER}a,b,0,10\n"}, "line 2 has 4 values for 5 columns"),
        ("kinetics_csv", {"train": f"{HEADER}a,b,0,10,val\n"}, "line 2: split 'val' in the list"),
        ("kinetics_csv", {"train": f"{HEADER}a,b,zero,10,train\n"}, "'zero' is not an integer"),
        ("kinetics_csv", {"train": f"{HEADER},b,0,10,train\n"}, "name no video with a label"),
        ("ssv2_json", {"train": [{"id": "7", "template": "Eat"}]}, "entry 1: 'Eat' is not in"),
        ("ssv2_json", {"train": [{"id": "7"}]}, "entry 1 has no id or no template"),
        ("ssv2_json", {"train": {"7": "Putting"}}, "holds a dict, not a list"),
        ("ssv2_json", {"labels": {"Putting something": "1"}}, "labels must be 0..0, each once"),
        ("ssv2_json", {"labels": {"Putting something": None}}, "'None' is not an integer"),
    ],
)
def test_senseless_lists(tmp_path, layout, lists, message):
    make_videos(tmp_path, ["A/a.avi", "B/b.avi"])
    with pytest.raises(DatasetError, match=re.escape(message)):
        read(layout, tmp_path, MAKE_LISTS[layout](tmp_path / "lists", **lists), 2)


@pytest.mark.parametrize(
    ("layout", "name", "content", "message"),
    [
        ("ssv2_json", "something-something-v2-labels.json", b"{", "is not JSON"),
        ("ucf101", "trainlist01.txt", b"A/\xff.avi 1\n", "cannot be read as text"),
    ],
)
def test_broken_lists(tmp_path, layout, name, content, message):
    lists = MAKE_LISTS[layout](tmp_path / "lists")
    (lists / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read(layout, tmp_path, lists, 2)


@pytest.mark.parametrize(
    ("layout", "lists"),
    [
        ("kinetics_csv", {"train": ESCAPING}),
        ("ssv2_json", {"train": [{"id": "../7", "template": PUTTING}]}),
    ],
)
def test_ids_that_lead_out_of_the_root(tmp_path, layout, lists):
    make_videos(tmp_path / "root", ["8.webm", "c/d_000000_000010.mp4"])
    make_videos(tmp_path, ["7.webm", "b_000000_000010.mp4"])
    made = MAKE_LISTS[layout](tmp_path / "lists", **lists)
    bad = [r for r in read(layout, tmp_path / "root", made, None).records if not r.good]
    assert [(r.status, r.uri) for r in bad] == [(Status.BAD_NAME, "")]


def test_missing_videos_are_rows(tmp_path):
    make_videos(tmp_path, ["A/a.avi"])
    annotated = read("ucf101", tmp_path, ucf_lists(tmp_path / "lists"), 2)
    missing = annotated.records[1]
    assert (missing.sample_id, missing.uri, missing.status) == ("B/b", "B/b.avi", Status.NOT_FOUND)
    assert missing.reason == (
        "named by testlist01.txt, line 1, and not there: looked for B/b.avi, and for other suffixes"
        " of videos"
    )


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("ucf101", r"there is no .*/classInd\.txt; beside it there is notes\.txt"),
        ("hmdb51", r"has no <class>_test_split1\.txt; there is notes\.txt"),
        ("path_label_csv", r"needs one train\.csv or demo_train\.csv; there is notes\.txt"),
        ("kinetics_csv", r"needs one train\.csv or demo_train\.csv; there is notes\.txt"),
        ("ssv2_json", r"needs one labels\.json or demo_labels\.json; there is notes\.txt"),
        ("folders", r"has no folders of videos .*; there is notes\.txt"),
    ],
)
def test_nothing_to_read(tmp_path, layout, message):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=message):
        read(layout, tmp_path, tmp_path, 2)
    if layout != "folders":
        with pytest.raises(DatasetError, match=f"annotations is required for layout {layout}"):
            read(layout, tmp_path, None, 2)


def test_no_video_at_all(tmp_path):
    lists = ucf_lists(tmp_path / "lists")
    with pytest.raises(
        DatasetError, match=r"none of the 2 .* looked for A/a.avi, B/b.avi, .*lists"
    ):
        read("ucf101", tmp_path, lists, 2)


def test_a_root_that_is_likely_wrong_is_doubted(tmp_path):
    make_videos(tmp_path, ["A/a.avi", "C/c.avi"])
    train = "".join(f"A/{n}.avi 1\n" for n in range(50))
    annotated = read(
        "ucf101", tmp_path, ucf_lists(tmp_path / "lists", train=train, test="A/a.avi"), 2
    )
    assert annotated.doubt.startswith("1 of the 51 annotated videos is below dataset.root")
    assert annotated.doubt in annotated.notes
    assert not read("folders", tmp_path, None, None).doubt


def test_every_folder_is_listed_once(tmp_path, monkeypatch):
    make_videos(tmp_path, [f"{name}/{i}.avi" for name in "AB" for i in range(9)])
    text = "".join(f"{name}/{i}.avi,{name}\n" for name in "AB" for i in range(9))
    lists = make_lists(tmp_path / "lists", train_csv=text, val_csv="")
    listed = Counter()

    def counted(uri: str) -> list[str]:
        listed[uri] += 1
        return list_names(uri)

    monkeypatch.setattr(folders, "list_names", counted)
    read("path_label_csv", tmp_path, lists, 2)
    assert listed == {str(tmp_path): 1, f"{tmp_path}/A": 1, f"{tmp_path}/B": 1}
