"""A newcomer can tell the cache, the baseline and the distilled student apart, and compare them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.server import dataset_digest
from tests.browser.example_runs import (
    BASELINE,
    CACHE,
    CLASS_NAMES,
    DISTILLED,
    EXPERIMENT,
    KEY,
    OTHER_CACHE,
    STORE_DIGEST,
    log_example_runs,
)
from tests.browser.mlflow_pages import (
    NUM_SCORES,
    SCORES,
    Page,
    charts_page,
    models_page,
    run_page,
    runs_page,
    students_page,
    visit,
)
from tests.loopback import free_port
from tests.mlflow_server import mlflow_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

DIFFERING = "loss.distill_weight"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def ui(uri: str) -> Iterator[str]:
    log_example_runs(uri)
    with mlflow_server(Path(uri.removeprefix("sqlite:///")), free_port()) as url:
        yield url


def screenshot(uri: str, name: str) -> str:
    """Return where to keep a page's picture, beside the database, for whoever wants to look."""
    return str(Path(uri.removeprefix("sqlite:///")).parent / name)


def test_the_table_tells_the_runs_apart(ui: str, uri: str) -> None:
    page = Page(runs_page(ui, uri, EXPERIMENT), CACHE, screenshot=screenshot(uri, "runs.png"))
    (seen,) = visit([page])
    for name in (CACHE, BASELINE, DISTILLED):
        assert name in seen
    assert seen.count(f"logit-store ({dataset_digest(STORE_DIGEST)})") == 3  # made once, read twice


def test_the_runs_of_one_cache_are_found_selected_and_compared(ui: str, uri: str) -> None:
    page = Page(
        runs_page(ui, uri, EXPERIMENT),
        OTHER_CACHE,
        filter=f"tags.`cache.key` = '{KEY}'",
        gone=OTHER_CACHE,
        clicks=['[aria-label="Select all runs"]', 'button:has-text("Compare")'],
        texts=["Comparing 3 Runs from 1 Experiment", DISTILLED, "Parallel Coordinates Plot"],
        charts=1,
        screenshot=screenshot(uri, "selected.png"),
    )
    (seen,) = visit([page])
    assert DIFFERING in seen
    assert OTHER_CACHE not in seen


def test_students_stand_side_by_side(ui: str, uri: str) -> None:
    url = students_page(ui, uri, EXPERIMENT)
    page = Page(url, "Run details", charts=1, screenshot=screenshot(uri, "students.png"))
    (seen,) = visit([page])
    words = " ".join(seen.split())
    assert f"Run Name: {DISTILLED} {BASELINE}" in words
    assert f"{DIFFERING} 0.2 0.0" in words
    assert "best/top1" in words
    assert "0.84 0.66" in words  # names and values are columns of their own
    assert CACHE not in seen
    assert "Metrics: val/top1 Clear All" in words  # the axis that nobody chose


def test_charts_lay_the_curves_over_each_other(ui: str, uri: str) -> None:
    url = charts_page(ui, uri, EXPERIMENT)
    charts = screenshot(uri, "charts.png")
    page = Page(url, "best/", search=SCORES, charts=NUM_SCORES, screenshot=charts)
    (seen,) = visit([page])
    for name in (DISTILLED, BASELINE):
        assert f"{name} (val/agreement)" in seen


def test_a_run_shows_its_scores_and_what_it_came_from(ui: str, uri: str) -> None:
    url = run_page(ui, uri, EXPERIMENT, DISTILLED)
    page = Page(url, "best/top1", texts=["cache.run_id"])
    (seen,) = visit([page])
    assert "train_student" in seen


def test_a_run_shows_where_it_is_right_and_where_wrong(ui: str, uri: str) -> None:
    def artifact(name: str) -> str:
        return run_page(ui, uri, EXPERIMENT, DISTILLED, f"/artifacts/val/{name}")

    pictures = [
        Page(artifact(name), name, pictures=1, screenshot=screenshot(uri, name))
        for name in ("predictions.png", "confusion.png", "reliability.png")
    ]
    *_, table = visit([*pictures, Page(artifact("per_class.csv"), "num_correct")])
    assert CLASS_NAMES[0] in table


def test_a_student_is_a_model_that_says_what_it_takes(ui: str, uri: str) -> None:
    clicks = ['a:text-is("student")', 'text="Artifacts"', 'text="MLmodel"']
    page = Page(
        models_page(ui, uri, EXPERIMENT),
        "Ready",
        clicks=clicks,
        texts=["signature"],
        screenshot=screenshot(uri, "model.png"),
    )
    (seen,) = visit([page])
    assert "[-1, 8, 3, 32, 32]" in seen  # (B, T, C, H, W)
    assert CLASS_NAMES[0] in seen
