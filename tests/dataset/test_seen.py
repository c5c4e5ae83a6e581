"""Videos that the teacher was trained on are counted by split, in lists of any form."""

from pathlib import Path

import pytest

from pipeline.dataset.manifest import VideoRecord
from pipeline.dataset.seen import seen_by_teacher
from pipeline.errors import DatasetError


def video(sample_id: str, split: str) -> VideoRecord:
    return VideoRecord(sample_id=sample_id, uri=f"{sample_id}.avi", label=0, split=split)


RECORDS = [
    video("Rowing/v_Rowing_g01_c01", "train"),
    video("Rowing/v_Rowing_g02_c01", "val"),
    video("Rowing/v_Rowing_g03_c01", "val"),
    video("a/1", "val"),
    video("val/x/aaaaaaaaaaa_000001_000011", "val"),
    video("7", "val"),
    video("b/1", "test"),
]


@pytest.mark.parametrize(
    ("name", "text", "val"),
    [
        ("train.csv", "train/Rowing/v_Rowing_g01_c01.avi,0\nval/x/v_Rowing_g02_c01.mp4,0\n", 1),
        ("train.txt", "Rowing/v_rowing_g02_c01.avi\nRowing/v_Rowing_g03_c01.avi\n", 2),
        ("train.txt", "other/1.avi\n", 0),  # two videos have this name
        ("train.txt", "a/1.avi\n", 1),
        ("x_test_split1.txt", "v_Rowing_g02_c01.avi 1\nv_Rowing_g03_c01.avi 2\n", 1),
        ("train.txt", "./a/1.avi\n./a/2.avi\n", 1),
        ("train.txt", "v_Rowing_g02_c01\nv_Rowing_g03_c01\n", 2),
        ("train.csv", "label,path\n0,a/1.avi\n", 1),
        ("train.csv", "label,youtube_id,time_start,time_end,split\nx,aaaaaaaaaaa,1,11,train\n", 1),
        ("train.json", '[{"id": "7", "template": "Putting [something]"}]', 1),
    ],
)
def test_what_the_teacher_has_seen_is_counted(tmp_path: Path, name, text, val) -> None:
    (tmp_path / name).write_text(text)
    said = seen_by_teacher([str(tmp_path / name)], RECORDS)
    assert said == [
        f"the teacher was trained on {val} of these 5 videos of val (teacher.seen)",
        "the teacher was trained on 0 of these 1 videos of test (teacher.seen)",
    ]
    assert seen_by_teacher([str(tmp_path / name)], RECORDS, ("val",)) == said[:1]


def test_nothing_is_said_without_a_list_and_a_missing_one_is_refused() -> None:
    assert seen_by_teacher([], RECORDS) == []
    with pytest.raises(DatasetError, match=r"^teacher.seen: there is no such.txt in /no"):
        seen_by_teacher(["/no/such.txt"], RECORDS)
