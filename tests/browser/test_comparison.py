"""A newcomer finds the runs of one cache, compares students and reads one of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.browser.example_runs import (
    BASELINE,
    CACHE,
    DISTILLED,
    EXPERIMENT,
    KEY,
    OTHER_CACHE,
    log_example_runs,
)
from tests.browser.mlflow_pages import Page, runs_page, visit
from tests.loopback import free_port
from tests.mlflow_server import mlflow_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

COMPARE = ['[aria-label="Select all runs"]', 'button:has-text("Compare")']
DIFFERING = "loss.distill_weight"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def links(uri: str) -> Mapping[str, str]:
    return log_example_runs(uri)


@pytest.fixture(scope="module")
def ui(uri: str, links: Mapping[str, str]) -> Iterator[str]:
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
    assert "0.84 0.66" in words  # best/top1; names and values are columns of their own
    assert "Metrics: val/top1 Clear All" in words  # the axis that nobody chose


def test_a_link_opens_the_page_of_its_run(ui: str, links: Mapping[str, str]) -> None:
    page = links[DISTILLED].partition("/#/")[2]
    (seen,) = visit([Page(f"{ui}/#/{page}", "best/top1", texts=["cache.run_id"])])
    assert DISTILLED in seen
    assert "train_student" in seen
