"""MLflow's pages, as a reader sees them."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking.server import comparison_link, find_runs

VISIT = Path(__file__).with_name("visit.cjs")
SIZE = (1500, 1050)
# Of some twenty charts: how good the best checkpoints are, and how they came to be.
SCORES = "^(best|val)/(top1|nll|agreement)$"
NUM_SCORES = 6


@dataclass(frozen=True)
class Page:
    """A page, what to do there, and what it shows then."""

    url: str
    ready: str  # a text that shows before anything is clicked
    filter: str = ""  # for the table of runs, in MLflow's own language
    gone: str = ""  # a text that the filter hides
    search: str = ""  # regular expression for the names of charts
    clicks: Sequence[str] = ()  # Playwright's selectors
    texts: Sequence[str] = ()  # shown in the end
    charts: int = 0  # drawn in the end
    pictures: int = 0  # loaded in the end
    screenshot: str | None = None


def visit(pages: Sequence[Page], size: tuple[int, int] = SIZE) -> list[str]:
    """Open pages in Chromium; return the visible text of each."""
    order: dict[str, Any] = {"width": size[0], "height": size[1]}
    order["pages"] = [asdict(page) for page in pages]
    done = subprocess.run(
        ["node", str(VISIT)], input=json.dumps(order), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    texts: list[str] = json.loads(done.stdout)
    return texts


def runs_page(ui: str, uri: str, experiment: str) -> str:
    return f"{ui}/#/experiments/{_id_of(uri, experiment)}/runs?workflowType=machine_learning"


def charts_page(ui: str, uri: str, experiment: str) -> str:
    return f"{runs_page(ui, uri, experiment)}&compareRunsMode=CHART"


def students_page(ui: str, uri: str, experiment: str) -> str:
    students = find_runs(uri, experiment, "tags.stage = 'train_student'")
    return comparison_link(ui, students)


def run_page(ui: str, uri: str, experiment: str, run_name: str, below: str = "") -> str:
    (run,) = find_runs(uri, experiment, f"attributes.run_name = '{run_name}'")
    page, words = runs_page(ui, uri, experiment).split("?")
    return f"{page}/{run.info.run_id}{below}?{words}"


def models_page(ui: str, uri: str, experiment: str) -> str:
    return f"{ui}/#/experiments/{_id_of(uri, experiment)}/models?workflowType=machine_learning"


def _id_of(uri: str, experiment: str) -> str:
    return str(find_runs(uri, experiment)[0].info.experiment_id)
