"""Indexing as a stage: what it prints, and what it leaves behind."""

import csv
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import DatasetError, Status, TooManyFailedVideos
from pipeline.stages.cluster import LOCAL
from pipeline.stages.index import plan_index, run_index_videos
from pipeline.storage.files import exists

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def listed_and_not_there(tmp_path: Path, videos: Path, split: str) -> Path:
    """Write official lists of 1,000 videos, of which one of ``split`` is there."""
    there = next(videos.glob("*/*.mp4")).relative_to(videos)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text(f"1 {there.parent}\n")
    names = {"train": "trainlist01.txt", "val": "testlist01.txt"}
    for name in names.values():
        (lists / name).write_text("".join(f"{there.parent}/{name}_{n}.avi\n" for n in range(500)))
    with (lists / names[split]).open("a") as file:
        file.write(f"{there}\n")
    return lists


@pytest.mark.parametrize("split", ["train", "val"])
def test_ten_lines_a_status_and_the_likely_cause(
    split: str, tmp_path: Path, videos: Path, write_experiment: Any, capsys: Any
) -> None:
    lists = listed_and_not_there(tmp_path, videos, split)
    words = [f"dataset.annotations={lists}", "dataset.num_classes=null"]
    config = load_config(write_experiment(tmp_path), words)
    error = TooManyFailedVideos if split == "train" else DatasetError
    with pytest.raises(error) as caught:
        run_index_videos(plan_index(config), LOCAL)
    output = capsys.readouterr().out
    assert output.count("bad video: ") == 9
    assert "... and 991 more [not found]" in output
    assert f"is below dataset.root {videos}: looked for" in output
    with open(f"{config.artefacts}/bad_videos.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1000
    first = next(row for row in rows if row["sample_id"].endswith("/trainlist01.txt_0"))
    assert first["reason"].startswith("named by trainlist01.txt, line 1, and not there: looked")
    assert exists(config.manifest_uri) == (split == "train")
    if split == "val":
        assert "no video of train can be used, so no manifest was written" in str(caught.value)
        assert "Correct dataset.root" in str(caught.value)


def test_missing_videos_count_apart(tmp_path: Path, videos: Path, write_experiment: Any) -> None:
    lists = listed_and_not_there(tmp_path, videos, "train")
    words = [f"dataset.annotations={lists}", "dataset.max_missing_fraction=1"]
    config = load_config(write_experiment(tmp_path), [*words, "dataset.num_classes=null"])
    manifest = run_index_videos(plan_index(config), LOCAL)
    assert sum(record.good for record in manifest.records) == 1
    assert {r.status for r in read_manifest(config.manifest_uri).records} == {
        Status.GOOD,
        Status.NOT_FOUND,
    }


def test_the_plan_says_how_the_annotations_are_read(
    tmp_path: Path, videos: Path, write_experiment: Any
) -> None:
    lists = listed_and_not_there(tmp_path, videos, "train")
    words = [f"dataset.annotations={lists}", "dataset.num_classes=null"]
    text = plan_index(load_config(write_experiment(tmp_path), words)).as_text()
    assert text.startswith("note: 1 of the 1001 annotated videos is below dataset.root")
    assert "... and 991 more [not found]" in text
    assert text.endswith("tiny: 1 classes; videos: train 1 good of 501, val 0 good of 500")
