"""A newcomer finds the runs of one cache, compares students and reads one of them."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import LossConfig
from pipeline.config.schema import DatasetConfig, TrackingConfig
from pipeline.tracking.run import TrackedRun, open_run
from tests.browser.mlflow_pages import Page, runs_page, visit
from tests.loopback import free_port
from tests.mlflow_server import mlflow_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

EXPERIMENT = "moving-shapes"
CACHE, BASELINE, DISTILLED = "cache-base-5e1f0a12", "vflnet-s0-3fa9c1", "dvflnet-w0.2-t10-s0-9b04d7"
KEY, OTHER_KEY = "5e1f0a", "c04d77"
OTHER_CACHE = "cache-base-c04d7731"  # of other views
COMPARE = ['[aria-label="Select all runs"]', 'button:has-text("Compare")']
DIFFERING = "loss.distill_weight"


def log_run(
    uri: str,
    stage: str,
    name: str,
    tags: Mapping[str, str],
    *,
    weight: float,
    top1: float,
    experiment: str = EXPERIMENT,
) -> TrackedRun:
    """Log a run as its stage does: a cache, or a student that learns up to ``top1``."""
    config = ExperimentConfig(
        artefacts="/data/moving-shapes",
        dataset=DatasetConfig(name=experiment, root="/data", layout="folders", num_classes=8),
        loss=LossConfig(distill_weight=weight),
        tracking=TrackingConfig(uri=uri),
    )
    sections = ("clip", "student", "loss", "optim", "train")
    with open_run(config, stage=stage, name=name, key=name, sections=sections, tags=tags) as run:
        for step in range(1, 13):
            if stage == "cache_teacher":
                run.log_metrics(step, {"cache/clips_per_second": 41.0 + math.sin(step)})
            else:
                run.log_metrics(step, {"val/top1": top1 * (1 - math.exp(-step / 3))})
                run.log_metrics(step, {"train/loss": 0.4 + 1.7 * math.exp(-step * top1 / 4)})
        if stage == "train_student":
            run.log_summary({"last/top1": top1, "last/nll": 2.1 - 1.6 * top1, "last/ece": 0.1})
            run.log_summary({"teacher/top1": 0.9})
            run.describe_experiment(f"**Best on val: {DISTILLED}**\n\nAnd its table.")
    return run


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def runs(uri: str) -> None:
    """Log two caches, one of them with a baseline and a distilled student."""
    log_run(uri, "cache_teacher", OTHER_CACHE, {"cache.key": OTHER_KEY}, weight=0.2, top1=0)
    cache = log_run(uri, "cache_teacher", CACHE, {"cache.key": KEY}, weight=0.2, top1=0)
    tags = {"cache.key": KEY, "cache.run_id": str(cache.run_id)}
    students = ((BASELINE, 0.0, 0.66), (DISTILLED, 0.2, 0.84))
    for name, weight, top1 in students:
        log_run(uri, "train_student", name, tags, weight=weight, top1=top1)


@pytest.fixture(scope="module")
def ui(uri: str, runs: None) -> Iterator[str]:
    with mlflow_server(Path(uri.removeprefix("sqlite:///")), free_port()) as url:
        yield url


def test_the_runs_of_one_cache_are_found_and_compared(ui: str, uri: str) -> None:
    page = Page(
        runs_page(ui, uri, EXPERIMENT),
        OTHER_CACHE,
        filter=f"tags.`cache.key` = '{KEY}'",
        gone=OTHER_CACHE,
        clicks=COMPARE,
        texts=["Comparing 3 Runs from 1 Experiment", CACHE, BASELINE, DISTILLED],
        charts=1,
    )
    (seen,) = visit([page])
    assert OTHER_CACHE not in seen


def test_students_are_compared_by_top1_first(ui: str, uri: str) -> None:
    page = Page(
        runs_page(ui, uri, EXPERIMENT),
        CACHE,
        filter="tags.stage = 'train_student'",
        gone=CACHE,
        clicks=COMPARE,
        texts=["Comparing 2 Runs from 1 Experiment"],
        charts=1,
    )
    (seen,) = visit([page])
    words = " ".join(seen.split())
    assert f"Run Name: {DISTILLED} {BASELINE}" in words
    assert f"{DIFFERING} 0.2 0.0" in words
    assert "0.84 0.66" in words  # last/top1; names and values are columns of their own
    assert "Metrics: val/top1 Clear All" in words  # the axis that nobody chose


def test_links_open_a_run_and_the_comparison_of_students(ui: str) -> None:
    """At 1440 pixels it shows without a click which is best, and the teacher's score."""
    others = {"experiment": "linked", "tags": {}}
    log_run(ui, "cache_teacher", CACHE, weight=0.9, top1=0, **others)
    log_run(ui, "train_student", BASELINE, weight=0, top1=0.66, **others)
    run = log_run(ui, "train_student", DISTILLED, weight=0.9, top1=0.84, **others)
    plain = run.students_link.replace("viewStateShareKey=students&compareRunsMode=CHART&", "")
    pages = [
        Page(run.link, "last/top1", texts=["train_student"]),
        Page(run.students_link, DISTILLED, texts=["Which student is best"], charts=3),
        Page(plain, DISTILLED, texts=[f"Best on val: {DISTILLED}"]),
    ]
    of_run, students, first = visit(pages, (1440, 900))
    assert DISTILLED in of_run
    names = ["last/top1", "last/nll", "last/ece"]
    assert sorted(names, key=students.index) == names  # charts, in this order
    assert students.index(DISTILLED) < students.index(BASELINE)  # the best first
    assert CACHE not in students
    assert CACHE in first
