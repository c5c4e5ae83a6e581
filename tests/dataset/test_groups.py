"""Groups: which clips are of one recording, leaks between splits, and ``val`` cut off by group."""

from collections import Counter

import pytest
from pydantic import ValidationError

from pipeline.dataset.groups import group_of
from pipeline.errors import DatasetError
from tests.dataset.on_disk import counts, found, make_lists, make_videos, read, report_of

HMDB = "BATMAN_climb_stairs_f_cm_np1_ba_bad_15"


@pytest.mark.parametrize(
    ("groups", "sample_id", "group"),
    [
        ("auto", "Archery/v_Archery_g01_c02", "Archery/g01"),
        ("auto", "valid/v_Archery_g01_c02", "Archery/g01"),  # whatever the folder
        ("ucf", "v_Archery_g01_c02", "Archery/g01"),
        ("kinetics", "v_Archery_g01_c02", ""),
        ("auto", f"climb_stairs/{HMDB}", "BATMAN"),
        ("hmdb", f"valid/{HMDB}", "BATMAN"),  # by the name of its class
        ("auto", "val/x/-0aaaaaaaaa_000001_000011", "-0aaaaaaaaa"),
        ("auto", "fi001", ""),
        ("none", "Archery/v_Archery_g01_c02", ""),
        (r"_g(\d+)", "v_Fight_g07", "07"),
        (r"^(subject\d+)/", "subject3/walk", "subject3"),
        (r"_g(\d+)", "fi001", ""),
    ],
)
def test_rules(groups, sample_id, group):
    assert group_of(groups, sample_id, "climb stairs", "") == group


def leaks(tmp_path, train, val, header="", **more):
    make_videos(tmp_path, [line.split(",")[0] for line in [*train, *val]])
    lists = [header + "".join(f"{line}\n" for line in split) for split in (train, val)]
    folder = make_lists(tmp_path / "lists", train_csv=lists[0], val_csv=lists[1])
    report = report_of(read("path_label_csv", tmp_path, folder, None, **more))
    return next(f for f in report.findings if f.name == "group in two splits"), report


def test_unknown_groups_are_never_zero(tmp_path):
    finding, report = leaks(tmp_path, ["fi001.mp4,0"], ["fi002.mp4,0"])
    assert finding.unknown
    rows = {line[:29].strip(): line for line in report.as_text().splitlines()}
    assert "not known  set dataset.groups (docs/datasets.md)" in rows["group in two splits"]
    assert "not known" in rows["val video of a group in train"]
    assert found(report, "video of no known group") == ("fi001", "fi002")


def test_groups_of_train_alone_tell_nothing_of_val(tmp_path):
    finding, report = leaks(tmp_path, ["v_A_g01_c01.avi,0"], ["x.avi,0"])
    (of_val,) = (f for f in report.findings if f.name == "val video of a group in train")
    assert finding.unknown == of_val.unknown == "set dataset.groups (docs/datasets.md)"


def test_groups_are_partly_known(tmp_path):
    finding, report = leaks(tmp_path, ["v_A_g01_c01.avi,0"], ["v_A_g01_c02.avi,0", "x.avi,0"])
    assert finding.found == ("A/g01 (train 1, val 1)",)
    assert found(report, "video of no known group") == ("x",)


@pytest.mark.parametrize(("groups", "num_leaks"), [("auto", 0), (r"_g(\d+)_", 1)])
def test_one_source_in_two_classes(tmp_path, groups, num_leaks):
    finding, _ = leaks(
        tmp_path, ["v_Fight_g07_c01.avi,0"], ["v_NoFight_g07_c01.avi,1"], groups=groups
    )
    assert len(finding.found) == num_leaks


def test_two_ucf_classes_in_a_flat_list_leak_nothing(tmp_path):
    finding, _ = leaks(tmp_path, ["valid/v_A_g01_c01.avi,0"], ["valid/v_B_g01_c01.avi,1"])
    assert (finding.found, finding.unknown) == ((), "")


@pytest.mark.parametrize(("column", "groups"), [("group", "auto"), ("Tape", "tape")])
def test_a_column_of_groups(tmp_path, column, groups):
    header = f"path,label,{column}\n"
    finding, _ = leaks(tmp_path, ["a.mp4,0,7"], ["b.mp4,0,7", "c.mp4,0,8"], header, groups=groups)
    assert finding.found == ("7 (train 1, val 1)",)


def test_a_column_of_groups_of_kinetics(tmp_path):
    make_videos(tmp_path / "videos", ["train/-0aaaaaaaaa_000001_000011.mp4"])
    header = "Label,youtube_id,time_start,time_end,split,Tape\n"
    lists = make_lists(
        tmp_path / "lists", train_csv=f"{header}a,-0aaaaaaaaa,1,11,train,T7\n", val_csv=header
    )
    (record,) = read("kinetics_csv", tmp_path / "videos", lists, 1, groups="tape").records
    assert record.group == "T7"


@pytest.mark.parametrize("groups", ["ufc", "ucf", r"_x(\d)"])
def test_groups_that_no_video_has(tmp_path, groups):
    with pytest.raises(DatasetError, match=r"no video has such a group: the first one is a\.mp4"):
        leaks(tmp_path, ["a.mp4,0"], [], groups=groups)


@pytest.mark.parametrize("groups", ["_g(", "(a)(b)", "_g(?:01)"])
def test_senseless_expressions(tmp_path, groups):
    with pytest.raises(ValidationError, match="regular expression"):
        read("folders", tmp_path, None, 2, groups=groups)


# --- val_fraction -------------------------------------------------------------------------------


def ucf(folder: str, groups: range) -> list[str]:
    return [
        f"{folder}{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for name in "AB"
        for group in groups
        for clip in (1, 2)
    ]


def test_val_is_cut_off_train_and_the_official_list_is_test(tmp_path):
    train, test = ucf("", range(8, 26)), ucf("", range(1, 8))
    make_videos(tmp_path, [*train, *test])
    lists = make_lists(
        tmp_path / "lists",
        classInd_txt="1 A\n2 B\n",
        trainlist01_txt="".join(f"{path} {1 + (path[0] == 'B')}\n" for path in train),
        testlist01_txt="\n".join(test),
    )
    before = read("ucf101", tmp_path, lists, 2)
    assert counts(before) == {"train": 72, "val": 28}
    annotated = read("ucf101", tmp_path, lists, 2, val_fraction=0.1)
    assert counts(annotated) == {"train": 64, "val": 8, "test": 28}  # 2 of 18 groups, both classes
    report = report_of(annotated)
    assert not found(report, "group in two splits")
    assert not found(report, "test video of a group in train")
    assert annotated.notes == (
        "dataset.val_fraction is 0.1: 8 of 72 train videos are val, 2 of 18 groups, chosen by their"
        " names; the videos that are val by the lists are test",
    )


def test_val_of_partly_known_groups_keeps_groups_whole(tmp_path):
    paths = [*ucf("", range(1, 11)), *(f"A/other{n}.avi" for n in range(10))]
    make_videos(tmp_path, paths)
    annotated = read("folders", tmp_path, None, 2, val_fraction=0.3)
    assert not found(report_of(annotated), "group in two splits")
    assert "10 videos of no known group count as groups of their own" in annotated.notes[0]


def test_val_of_unknown_groups_is_said_to_be_random(tmp_path):
    make_videos(tmp_path, [f"{name}/{n}.mp4" for name in "ab" for n in range(10)])
    annotated = read("folders", tmp_path, None, None)
    assert counts(annotated) == {"train": 16, "val": 4}
    assert "random by video, since the groups of 20 videos are not known" in annotated.notes[0]
    fifth = read("folders", tmp_path, None, None, val_fraction=0.4)
    assert Counter(r.label for r in fifth.records if r.split == "val") == {0: 4, 1: 4}


def test_a_regular_expression_decides_the_own_split(tmp_path):
    make_videos(
        tmp_path, [f"{name}/s{n}_{i}.mp4" for name in "ab" for n in range(5) for i in (1, 2)]
    )
    annotated = read("folders", tmp_path, None, 2, groups=r"/(s\d)_")
    assert counts(annotated) == {"train": 16, "val": 4}
    assert len({r.group for r in annotated.records if r.split == "val"}) == 1


def test_splits_that_are_there_or_are_not(tmp_path):
    make_videos(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    two = make_lists(tmp_path / "two", train_csv="a.mp4,0\nb.mp4,0\n", test_csv="c.mp4,0\n")
    with pytest.raises(DatasetError, match=r"needs one val\.csv .*, or dataset\.val_fraction"):
        read("path_label_csv", tmp_path, two, None)
    cut = read("path_label_csv", tmp_path, two, None, val_fraction=0.5)
    assert counts(cut) == {"train": 1, "val": 1, "test": 1}
    make_lists(two, val_csv="d.mp4,0\n")
    with pytest.raises(DatasetError, match=r"has val and test already"):
        read("path_label_csv", tmp_path, two, None, val_fraction=0.5)
