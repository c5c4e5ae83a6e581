"""Videos without labels through all stages: a store grows by them, students learn from them."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.dataset.manifest import read_manifest
from pipeline.logits.store import open_store
from pipeline.results.page.page import write_report
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.cluster import LOCAL
from pipeline.stages.doctor import run_doctor
from pipeline.stages.evaluate import plan_evaluation, run_evaluate
from pipeline.stages.train import run_training
from pipeline.storage.files import read_bytes
from pipeline.training.plan import plan_student
from tests.html_page import Page
from tests.stages.conftest import index, write_teacher

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_store_grows_by_videos_without_labels_and_students_learn_from_them(
    tmp_path: Path, videos: Path, write_experiment: Any, private_ray: str, capsys: Any
) -> None:
    path, lists = write_experiment(tmp_path), tmp_path / "lists"
    lists.mkdir()
    for name in ("classInd", "testlist01", "trainlist01"):
        text = (videos / "splits" / f"{name}.txt").read_text()
        few = "".join(text.splitlines(keepends=True)[::2])  # 8 of 16 keep their label
        (lists / f"{name}.txt").write_text(few if name == "trainlist01" else text)
    words = [f"dataset.annotations={lists}", "train.epochs=1", "train.batch_size=4"]
    labelled = load_config(path, words)
    index(labelled)
    write_teacher(labelled)
    first = run_cache_teacher(plan_cache(labelled), LOCAL)

    config = load_config(path, [*words, f"dataset.unlabelled={videos}"])
    index(config)
    manifest = read_manifest(config.manifest_uri)
    assert [r.label for r in manifest.records if r.split == "train"].count(None) == 8
    assert "8 of them without a label" in plan_cache(config).as_text()
    capsys.readouterr()
    store = run_cache_teacher(plan_cache(config), LOCAL)
    assert store.root_digest != first.root_digest
    assert "24 of 40 clips need not be run" in capsys.readouterr().out
    labels = open_store(store.root).read_all().label.tolist()
    assert labels == [record.label_number for record in manifest.records]
    run_doctor(config, num_verified=3, json_uri=None)
    assert "16 good cells of videos without a label, in no top-1" in capsys.readouterr().out

    two = load_config(
        path,
        [*words, f"dataset.unlabelled={videos}", "cluster.num_workers=2", "train.batch_size=2"],
    )
    results = [run_training(plan_student(each), LOCAL) for each in (config, two)]
    one_worker, two_workers = (result["metrics"] for result in results)
    assert two_workers["last/nll"] == pytest.approx(one_worker["last/nll"], rel=1e-3)
    assert "videos  16 of train, 8 of them without a label, 8 of val" in capsys.readouterr().out
    summary = run_evaluate(plan_evaluation(config, split="train"), LOCAL)
    assert summary["num_videos"] == 8
    assert results[0]["name"] in summary["networks"]
    page = Page(read_bytes(write_report(config)).decode())
    assert "without a label 8 videos of train" in " ".join(" ".join(page.sections.values()).split())
