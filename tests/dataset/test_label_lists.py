"""``path,label`` lists as people write them."""

import pytest

from pipeline.errors import DatasetError
from tests.dataset.on_disk import counts, make_lists, make_videos, read

VIDEOS = ["cook/pasta, al dente.mp4", "cook/b.mp4", "run/my clip.mp4", "run/d.mp4"]
LABELS = [0, 0, 1, 1]


def labels_of(tmp_path, train: str, num_classes: int | None = None, **lists: str):
    """Read a list of ``VIDEOS``: the class names, and the label of each video."""
    make_videos(tmp_path / "videos", VIDEOS)
    folder = make_lists(tmp_path / "lists", train_csv=train, val_csv=lists.pop("val", ""), **lists)
    annotated = read("path_label_csv", tmp_path / "videos", folder, num_classes)
    assert all(record.good for record in annotated.records), annotated.records
    return annotated.class_names, {record.uri: record.label for record in annotated.records}


def lines(form: str, labels=LABELS) -> str:
    return "".join(
        form.format(path=path, label=label) for path, label in zip(VIDEOS, labels, strict=True)
    )


@pytest.mark.parametrize(
    "form",
    [
        "{path},{label}\n",
        '"{path}",{label}\n',
        '"{path}","{label}"\r\n',
        "{path} , {label}\r",
        "{path},250,{label}\n",
        "{path} {label}\n",
        "{path}  250 {label}\n",
        "{path}\t{label}\n",
        "{path}; {label}\n",
        "./{path},{label}.0\n",
    ],
)
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_separators_and_quotes(tmp_path, form, start):
    names, labels = labels_of(tmp_path, start + lines(form))
    assert (names, labels) == (("cook", "run"), dict(zip(VIDEOS, LABELS, strict=True)))


@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("path,label\n", "{path},{label}\n"),
        ("\ufeffVideo,Class\r\n", '"{path}",{label}\r\n'),
        ("label;filename;fps\n", "{label};{path};25\n"),
        (",video_path,num_frames,target\n", '7,"{path}",250,{label}\n'),
        ("name\tlabel\n", "{path}\t{label}\n"),
        ("label,path\n", '{label},"{path}"\n'),
        ("class id;video path\n", "{label};{path}\n"),
    ],
)
def test_headers(tmp_path, header, form):
    names, labels = labels_of(tmp_path, header + lines(form))
    assert (names, labels) == (("cook", "run"), dict(zip(VIDEOS, LABELS, strict=True)))


def test_how_a_list_was_read_is_said(tmp_path):
    make_videos(tmp_path, VIDEOS)
    text = "group;clip;label\n" + lines("x;{path};{label}\n")
    folder = make_lists(tmp_path / "lists", train_csv=text, val_csv="")
    annotated = read("path_label_csv", tmp_path, folder, 2)
    assert annotated.notes == (
        "train.csv: 4 videos, separator semicolon, the path in column 2, the label in column 3,"
        " the group in column 1",
        "val.csv: is empty",
    )
    assert {record.group for record in annotated.records} == {"x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,0\nb.mp4 0\nc.mp4,1\n", r"line 2: 'b.mp4 0' is no path and label, with a comma"),
        ("a.mp4 0\nb.mp4,0\nc.mp4,1\n", r"line 1: 'a.mp4 0' is no path and label, with a comma"),
        ("a.mp4,0\nb.mp4,250,0\n", "line 2 has 3 columns, and train.csv, line 1 has 2"),
        ("path,label\na.mp4,0\nb.mp4,250,0\n", "line 3 has 3 columns, and train.csv, line 1 has 2"),
        ("a.mp4,0\n,0\n", "line 2: ', 0' has no path"),
        ("a.mp4,0\nb.mp4,walk\n", "line 2: the label 'walk' is a name, and train.csv, line 1 has"),
        ("a.mp4,g01,0\nb.mp4,g02,0\n", "line 1: .* has columns that are neither"),
        ("a.mp4 riding a bike\n", "line 1: .* has columns that are neither"),
        (
            "clip_uid,y\na.mp4,0\nb.mp4,1\n",
            "line 1: 'clip_uid,y' is neither a video .* nor a header",
        ),
        ("start,label\na.mp4,0\n", "line 1: 'start,label' is neither a video .* nor a header"),
        ("path,frames\na.mp4,9\n", "line 1: 'path,frames' names no column 'label'"),
        ("a.mp4\nb.mp4\n", "line 1: 'a.mp4' is no path and label"),
        ('"a.mp4,0\n', "line 1: .* is no path and label"),
        ("a.mp4,1\nb.mp4,2\n", "the smallest label is 1. Set dataset.num_classes"),
        ("a.mp4,walk\nb.mp4,Walk\n", "classes differ only in case: Walk"),
        ("a.mp4,99999999999\nb.mp4,0\n", "line 1: label 99999999999 is over 99999"),
        ("\n", "name no video"),
    ],
)
def test_senseless_lists(tmp_path, text, message):
    make_videos(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    folder = make_lists(tmp_path / "lists", train_csv=text, val_csv="")
    with pytest.raises(DatasetError, match=message):
        read("path_label_csv", tmp_path, folder, None)


def test_windows_paths(tmp_path):
    make_videos(tmp_path, ["A/a.mp4", "B/b.mp4"])
    text = "A\\a.mp4,0\r\nB\\b.mp4,1\r\n"
    annotated = read(
        "path_label_csv", tmp_path, make_lists(tmp_path, train_csv=text, val_csv=""), 2
    )
    assert {record.uri for record in annotated.records if record.good} == {"A/a.mp4", "B/b.mp4"}


def test_paths_without_suffix(tmp_path):
    make_videos(tmp_path, ["v_1.mkv", "v_2.mp4"])
    folder = make_lists(tmp_path, train_txt="v_1 walk\nv_2 run\nv_3 run\n", val_txt="")
    annotated = read("path_label_csv", tmp_path, folder, None)
    assert annotated.class_names == ("run", "walk")
    videos = {record.uri: record for record in annotated.records}
    assert set(videos) == {"v_1.mkv", "v_2.mp4", "v_3"}
    assert videos["v_3"].reason.startswith(
        "named by train.txt, line 3, and not there: looked for v_3 with .3g2, .3gp,"
    )


@pytest.mark.parametrize(
    "test", ["a.mp4\nb.mp4\n", "path\na.mp4\n", "path,frames\na.mp4,3\n", "frames,path\n3,a.mp4\n"]
)
def test_a_test_list_without_labels_is_left_out(tmp_path, test):
    make_videos(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    folder = make_lists(tmp_path, train_csv="a.mp4,0\n", val_csv="b.mp4,0\n", test_csv=test)
    annotated = read("path_label_csv", tmp_path, folder, None)
    assert counts(annotated) == {"train": 1, "val": 1}
    assert annotated.notes[-1] == "test.csv: has no labels and is left out"


def test_a_labelled_test_list_whose_path_comes_last_is_read(tmp_path):
    make_videos(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    lists = {
        f"{split}_csv": f"label,path\n0,{name}.mp4\n"
        for split, name in zip(("train", "val", "test"), "abc", strict=True)
    }
    annotated = read("path_label_csv", tmp_path, make_lists(tmp_path / "lists", **lists), 1)
    assert counts(annotated) == {"train": 1, "val": 1, "test": 1}
