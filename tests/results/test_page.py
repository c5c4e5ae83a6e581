"""The report's page before any student is trained."""

import shutil
from typing import Any

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import StoreIncomplete
from pipeline.logits.store import open_store
from pipeline.results.page.gather import gather_facts
from pipeline.results.page.page import render, seeds, write_report
from pipeline.storage.files import join_uri, read_bytes, write_record
from pipeline.training.plan import plan_student, vary_student
from tests.html_page import Page

SECTIONS = ["result", "comparison", "disagreements", "confusion", "curves"]
SECTIONS += ["dataset", "teacher", "store", "next", "lineage"]


@pytest.fixture(scope="module")
def config(dataset: Any, sealed_store: str, tmp_path_factory: Any) -> ExperimentConfig:
    """A data set and a sealed store, and nothing that was trained."""
    artefacts = tmp_path_factory.mktemp("report") / "artefacts"
    config: ExperimentConfig = dataset.config(artefacts, store={"uri": sealed_store})
    dataset.publish(config)
    return config


@pytest.fixture(scope="module")
def page(config: ExperimentConfig) -> Page:
    return Page(read_bytes(write_report(config)).decode())


def test_the_page_needs_no_network(page: Page) -> None:
    assert page.images.total() > 0
    assert page.scripts == 0
    assert all(resource.startswith("data:image/") for resource in page.loaded)


def test_what_is_there_is_shown(config: ExperimentConfig, page: Page) -> None:
    assert list(page.sections) == SECTIONS
    store = open_store(config.store_uri)
    assert store.root_digest in page.sections["store"]
    assert "sound" in page.sections["store"]
    assert "64 of 64" in page.sections["store"]  # 20 videos x 3 views and 4 of val
    assert "20 good videos" in page.sections["dataset"]
    assert "Archery" in page.sections["dataset"]
    assert store.spec.fingerprint[:16] in page.sections["lineage"]
    assert "95 % over" in page.sections["result"]


def test_what_is_missing_is_named(page: Page) -> None:
    assert "no student has been trained from the cache yet" in page.sections["result"]
    assert "is not trained yet (python jobs/train_student.py)" in page.sections["disagreements"]
    assert "is not trained yet (python jobs/train_teacher.py)" in page.sections["curves"]
    assert "python jobs/distill.py CONFIG" in page.sections["next"]


def test_the_sweep_with_the_most_seeds_of_this_student_is_told(
    config: ExperimentConfig, tmp_path: Any
) -> None:
    digest, student = open_store(config.store_uri).root_digest, plan_student(config)
    other = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 0.5})})
    point = {"distill_weight": config.loss.distill_weight, "temperature": config.loss.temperature}
    value = {"mean": 0.904, "low": 0.84, "high": 0.968}
    cell = point | {"kind": config.loss.kind, "top1": value, "gain": value, "num_seeds": 3}
    sweeps = {
        "few": (student, digest, cell),
        "many": (student, digest, cell | {"num_seeds": 5}),
        "other-store": (student, "another", cell | {"num_seeds": 9}),
        "other-weight": (student, digest, cell | {"num_seeds": 9, "distill_weight": 0.77}),
        "other-rate": (vary_student(student, other), digest, cell | {"num_seeds": 9}),
    }
    for name, (plan, root_digest, found) in sweeps.items():
        trials = [{"name": plan.name, "seed": config.train.seed}]
        values = {"root_digest": root_digest, "interval": "95 % over n seeds", "trials": trials}
        uri = join_uri(config.artefacts, "sweeps", name, "sweep.json")
        write_record(uri, values | {"cells": [found]})
    told = seeds(gather_facts(config))
    assert "Over 5 seeds the student has 90.4% (84.0 to 96.8), +90.4 points over labels" in told
    assert told.endswith("95 % over n seeds.")
    shutil.rmtree(join_uri(config.artefacts, "sweeps"))
    assert seeds(gather_facts(config)).startswith("One seed of each student")


def test_a_missing_list_of_seen_videos_is_said_and_costs_no_page(config: ExperimentConfig) -> None:
    teacher = config.teacher.model_copy(update={"seen": ("/nowhere/seen.txt",)})
    page = Page(render(gather_facts(config.model_copy(update={"teacher": teacher}))))
    assert "teacher.seen: " in page.sections["result"]
    assert "seen.txt in /nowhere" in page.sections["result"]


def test_a_data_set_alone_is_a_page_too(dataset: Any, tmp_path: Any) -> None:
    config = dataset.config(tmp_path / "artefacts", frames={"source": "prepared"})
    dataset.publish(config)
    page = Page(render(gather_facts(config)))
    assert list(page.sections) == SECTIONS
    for name in ("dataset", "store", "disagreements"):
        assert "Not there: there is no frame store at" in page.sections[name]


def test_where_nothing_is_there_is_no_page(dataset: Any, tmp_path: Any) -> None:
    config = dataset.config(tmp_path / "elsewhere")
    with pytest.raises(StoreIncomplete, match=r"no manifest at .*elsewhere.*jobs/index_videos\.py"):
        write_report(config)
    assert not (tmp_path / "elsewhere").exists()
