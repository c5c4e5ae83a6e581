"""Videos without labels: they are of train, whatever names them, and never of another split."""

import json
from pathlib import Path

import pytest

from pipeline.dataset.manifest import build_manifest, read_manifest, write_manifest
from pipeline.errors import DatasetError
from tests.dataset.on_disk import counts, found, make_lists, make_videos, read, report_of

KINETICS = "label,youtube_id,time_start,time_end,split\n"


def without_label(annotated) -> list[str]:
    assert {r.split for r in annotated.records if r.label is None} <= {"train"}
    return sorted(r.sample_id for r in annotated.records if r.label is None)


def lists_of(folder: Path, **more: str) -> Path:
    """``path,label`` lists of three videos of ``tree``."""
    return make_lists(folder, train_csv="a/1.mp4,a\nb/2.mp4,b\n", val_csv="a/3.mp4,a\n", **more)


@pytest.fixture
def tree(tmp_path) -> Path:
    names = ["a/1.mp4", "b/2.mp4", "a/3.mp4", "more/4.mp4", "more/deep/5.avi", "more/read.txt"]
    make_videos(tmp_path / "videos", names)
    return tmp_path / "videos"


def test_a_folder(tree, tmp_path):
    lists = lists_of(tmp_path / "lists")
    annotated = read("path_label_csv", tree, lists, 2, unlabelled=str(tree / "more"))
    assert without_label(annotated) == ["more/4", "more/deep/5"]
    assert counts(annotated) == {"train": 4, "val": 1}
    assert annotated.notes[-1] == "2 videos of train have no label"
    report = report_of(annotated)
    assert report.title == (
        "demo: 2 classes; videos: train 4 good of 4, val 1 good of 1, 2 of them without a label"
    )
    assert found(report, "left out: .txt is no suffix of a video") == ("more/read.txt",)
    assert not found(report, "label not in 0..1")
    assert found(report, "class without good train videos") == ()


def test_the_root_means_all_that_no_list_names(tree, tmp_path):
    annotated = read("path_label_csv", tree, lists_of(tmp_path / "lists"), 2, unlabelled=str(tree))
    assert without_label(annotated) == ["more/4", "more/deep/5"]
    labels = {r.sample_id: r.label for r in annotated.records if r.label is not None}
    assert labels == {"a/1": 0, "b/2": 1, "a/3": 0}


@pytest.mark.parametrize("text", ["more/4.mp4\nb/2.mp4\n", "path,label\nmore/4.mp4,9\n", "more/4"])
def test_a_list_of_any_form_whose_labels_do_not_count(tree, tmp_path, text):
    make_lists(tmp_path, more_txt=text)
    lists = lists_of(tmp_path / "lists")
    annotated = read("path_label_csv", tree, lists, 2, unlabelled=str(tmp_path / "more.txt"))
    assert without_label(annotated) == ["more/4"]
    assert all(record.good for record in annotated.records)


@pytest.mark.parametrize("layout", ["folders", "ucf101", "hmdb51"])
def test_every_layout_takes_them(tree, tmp_path, layout):
    lists = make_lists(
        tmp_path / "lists",
        **{
            "classInd.txt": "1 a\n2 b\n",
            "trainlist01.txt": "a/1.mp4 1\nb/2.mp4 2\n",
            "testlist01.txt": "a/3.mp4\n",
            "a_test_split1.txt": "1.mp4 1\n3.mp4 2\n",
            "b_test_split1.txt": "2.mp4 1\n",
        },
    )
    annotated = read(layout, tree, lists, 2, unlabelled=str(tree / "more"))
    assert (annotated.class_names, without_label(annotated)) == (
        ("a", "b"),
        ["more/4", "more/deep/5"],
    )
    assert counts(annotated) == {"train": 4, "val": 1}


def test_empty_labels_in_lists(tmp_path):
    make_videos(tmp_path, ["a/1.mp4", "a/2.mp4", "a/3.mp4"])
    lists = make_lists(tmp_path / "lists", train_csv="a/1.mp4,0\na/2.mp4,\n", val_csv="a/3.mp4,0\n")
    assert without_label(read("path_label_csv", tmp_path, lists, 1)) == ["a/2"]
    kinetics = make_lists(
        tmp_path / "kinetics",
        train_csv=f"{KINETICS}a,aaaaaaaaaaa,0,9,train\n,bbbbbbbbbbb,0,9,train\n",
        val_csv=f"{KINETICS}a,ccccccccccc,0,9,val\n",
    )
    make_videos(tmp_path, ["train/aaaaaaaaaaa_000000_000009.mp4"])
    annotated = read("kinetics_csv", tmp_path, kinetics, None)
    assert (annotated.class_names, without_label(annotated)) == (
        ("a",),
        ["train/bbbbbbbbbbb_000000_000009"],
    )
    (tmp_path / "ssv2").mkdir()
    videos = [{"id": "7", "template": "x"}, {"id": "8", "template": ""}]
    for name, value in (("labels", {"x": "0"}), ("train", videos), ("validation", videos[:0])):
        (tmp_path / "ssv2" / f"{name}.json").write_text(json.dumps(value))
    make_videos(tmp_path, ["7.webm", "8.webm"])
    assert without_label(read("ssv2_json", tmp_path, tmp_path / "ssv2", 1)) == ["8"]


def test_val_is_cut_off_the_labelled_ones_alone(tmp_path):
    make_videos(tmp_path, [f"a/{n}.mp4" for n in range(10)] + [f"more/{n}.mp4" for n in range(30)])
    annotated = read("folders", tmp_path, None, 1, unlabelled=str(tmp_path / "more"))
    assert counts(annotated) == {"train": 38, "val": 2}
    assert len(without_label(annotated)) == 30


@pytest.mark.parametrize(
    ("lists", "more", "message"),
    [
        ({"val_csv": "a/3.mp4,\n"}, {}, r"val.csv, line 1: a video of val has no label"),
        ({"test_csv": "a/3.mp4,\nb/4.mp4,1\n"}, {}, r"test.csv, line 1: a video of test has no"),
        ({}, {"unlabelled": "/elsewhere"}, "dataset.unlabelled: /elsewhere is not below"),
        ({}, {"unlabelled": "/no/list.txt"}, "there is no /no/list.txt"),
        ({}, {"unlabelled": "nothing"}, "dataset.unlabelled: there is no video in .*nothing"),
    ],
)
def test_what_is_refused(tree, tmp_path, lists, more, message):
    texts = {"train_csv": "a/1.mp4,0\n", "val_csv": "b/2.mp4,0\n"} | lists
    if more.get("unlabelled") == "nothing":
        more = {"unlabelled": str(tree / "nothing")}
    with pytest.raises(DatasetError, match=message):
        read("path_label_csv", tree, make_lists(tmp_path / "lists", **texts), 1, **more)


def test_a_name_that_cannot_be_used_is_one_bad_video(tree, tmp_path):
    make_videos(tree, ["more/x::y.mp4", "a/x::y.mp4"])
    lists = lists_of(tmp_path / "lists")
    with (lists / "train.csv").open("a") as file:
        file.write("a/x::y.mp4,a\n")
    annotated = read("path_label_csv", tree, lists, 2, unlabelled=str(tree))
    bad = sorted((r.sample_id, r.label) for r in annotated.records if not r.good)
    assert bad == [("a/x::y", 0), ("more/x::y", None)]


def test_the_manifest_keeps_none(tree, tmp_path):
    annotated = read("path_label_csv", tree, lists_of(tmp_path / "l"), 2, unlabelled=str(tree))
    manifest = build_manifest("demo", annotated.class_names, annotated.records)
    write_manifest(manifest, str(tmp_path / "manifest.parquet"), root=str(tree))
    again = read_manifest(str(tmp_path / "manifest.parquet"))
    assert [r.label for r in again.records] == [r.label for r in manifest.records]
    assert (again.digest, None in {r.label for r in again.records}) == (manifest.digest, True)
