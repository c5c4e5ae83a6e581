"""The classes of ``path,label`` lists: numbers, names, and files of names."""

import pytest

from pipeline.errors import DatasetError, Status
from tests.dataset.on_disk import found, make_lists, make_videos, read, report_of


def flat(tmp_path, labels, num_classes=None, **lists):
    """Read a list of videos that all lie in one folder."""
    make_videos(tmp_path, [f"rgb/v{n}.mp4" for n in range(len(labels))])
    text = "".join(f"rgb/v{n}.mp4,{label}\n" for n, label in enumerate(labels))
    folder = make_lists(tmp_path / "lists", train_csv=text, val_csv="", **lists)
    return read("path_label_csv", tmp_path, folder, num_classes)


def labels_of(annotated):
    """Return the labels of ``flat`` in the order of its list."""
    return [record.label for record in sorted(annotated.records, key=lambda r: r.sample_id)]


@pytest.mark.parametrize("num_classes", [4, None])
def test_a_flat_folder(tmp_path, num_classes):
    annotated = flat(tmp_path, [0, 1, 2, 3] * 5, num_classes)
    assert annotated.class_names == ("class 0", "class 1", "class 2", "class 3")
    assert all(record.good for record in annotated.records)
    assert not found(report_of(annotated), "class folder with another label")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes_csv", "0,walk\n1,run\n2,turn left\n"),
        ("classes_csv", "id,name\r\n0,walk\r\n2,turn left\r\n1,run\r\n"),
        ("labels_csv", '\ufeffname,id\n"walk",0\nrun,1\nturn left,2\n'),
        ("classes_txt", "walk\nrun\nturn left\n"),
        ("classes_txt", "name\nwalk\nrun\nturn left\n"),
        ("classes_csv", "label\nwalk\nrun\nturn left\n"),
        ("labels_txt", "0 walk\n1 run\n2 turn left\n"),
    ],
)
@pytest.mark.parametrize("num_classes", [3, None])
def test_names_beside_the_lists(tmp_path, name, text, num_classes):
    annotated = flat(tmp_path, [0, 2, 0], num_classes, **{name: text})
    assert annotated.class_names == ("walk", "run", "turn left")
    assert found(report_of(annotated), "class without good train videos") == ("run",)
    named = flat(tmp_path / "b", ["Walk", "turn left", "walk"], num_classes, **{name: text})
    assert labels_of(named) == [0, 2, 0]


@pytest.mark.parametrize("first", ["action", "class", "Label"])
def test_a_class_that_is_called_like_a_column(tmp_path, first):
    annotated = flat(tmp_path, [0, 1], None, classes_txt=f"{first}\nrun\n")
    assert annotated.class_names == (first, "run")


@pytest.mark.parametrize(
    ("labels", "num_classes", "lists", "message"),
    [
        ([0, 1, 2], 4, {}, "num_classes is 4, and .* demo have 3 classes"),
        ([0, 1, 2, 3, 4], 4, {}, "num_classes is 4, and .* demo have 5 classes"),
        ([0, 1], 3, {"classes_csv": "0,a\n1,b\n"}, "num_classes is 3, and .* have 2 classes: a, b"),
        ([1, 2], None, {"classes_csv": "0,a\n1,b\n"}, "line 2: label 2; .*counts 2 classes from 0"),
        ([0, 1], None, {"classes_csv": "1,a\n2,b\n"}, "line 1: label 0; .*counts 2 classes from 1"),
        (["a", "c"], None, {"classes_csv": "0,a\n1,b\n"}, "line 2: 'c' is none of the listed"),
        ([0], None, {"classes_csv": "0,a\n0,b\n"}, "ids of classes must be 0, 1, 2"),
        ([0], None, {"classes_csv": "0,a\n1,a\n"}, "two classes are called 'a'"),
    ],
)
def test_classes_that_contradict(tmp_path, labels, num_classes, lists, message):
    with pytest.raises(DatasetError, match=message):
        flat(tmp_path, labels, num_classes, **lists)


@pytest.mark.parametrize(
    ("num_classes", "lists"), [(3, {}), (None, {"classes_csv": "1,a\n2,b\n3,c\n"})]
)
def test_labels_from_one(tmp_path, num_classes, lists):
    annotated = flat(tmp_path, [1, 2, 3, 3], num_classes, **lists)
    assert labels_of(annotated) == [0, 1, 2, 2]
    assert annotated.notes[-1] == "labels count from 1 to 3: label 1 of the lists is class 0"


def test_gaps_one_class_and_labels_that_are_none(tmp_path):
    gap = flat(tmp_path / "a", [0, 1, 3])
    assert found(report_of(gap), "class without good train videos") == ("class 2",)
    assert flat(tmp_path / "b", [0, 0]).class_names == ("rgb",)
    negative = flat(tmp_path / "c", [0, 1, -1])
    statuses = {record.sample_id: record.status for record in negative.records}
    assert statuses["rgb/v2"] == Status.LABEL_OUT_OF_RANGE
    assert flat(tmp_path / "d", ["walk", "walk"]).class_names == ("walk",)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1]])
def test_folders_of_sessions_name_no_classes(tmp_path, labels):
    make_videos(tmp_path, [f"s{n % 2}/{n}.mp4" for n in range(8)])
    text = "".join(f"s{n % 2}/{n}.mp4,{label}\n" for n, label in enumerate(labels))
    annotated = read(
        "path_label_csv", tmp_path, make_lists(tmp_path, train_csv=text, val_csv=""), 2
    )
    assert annotated.class_names == ("class 0", "class 1")
