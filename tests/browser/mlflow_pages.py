"""MLflow's pages in a real browser."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.mlflow_server import find_runs

VISIT = Path(__file__).with_name("visit.cjs")
SIZE = (1500, 1050)


@dataclass(frozen=True)
class Page:
    """A page, what to do there, and what it shows then."""

    url: str
    ready: str  # a text that shows before anything is clicked
    filter: str = ""  # for the table of runs, in MLflow's own language
    gone: str = ""  # a text that the filter hides
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


def runs_page(ui: str, uri: str, experiment: str, words: str = "") -> str:
    """Return the table of an experiment's runs, or another view of them."""
    number = find_runs(uri, experiment)[0].info.experiment_id
    return f"{ui}/#/experiments/{number}/runs?workflowType=machine_learning{words}"
