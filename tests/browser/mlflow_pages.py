"""MLflow's server and its pages, as a reader sees them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.tracking import comparison_link, find_runs

VISIT = Path(__file__).with_name("visit.cjs")
START_SECONDS = 180.0
SIZE = (1500, 1050)


@dataclass(frozen=True)
class Page:
    """A page, and what says that it is ready."""

    url: str
    texts: Sequence[str]  # all visible
    charts: int = 0  # drawn
    clicks: Sequence[str] = ()  # texts to click first
    screenshot: str | None = None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(database: Path, port: int) -> Iterator[str]:
    """Serve a database on loopback, as ``make ui`` does; yield the server's URL."""
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"),
        *("--artifacts-destination", str(database.parent / "served")),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(database.parent / "server.log", "ab") as log:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
    try:
        _wait_until_healthy(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(30)


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


def _id_of(uri: str, experiment: str) -> str:
    return str(find_runs(uri, experiment)[0].info.experiment_id)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, TimeoutError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"no MLflow server at {url} (exit code {server.poll()})")
