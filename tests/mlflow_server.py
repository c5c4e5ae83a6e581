"""A real MLflow server on loopback, and what runs a server or database holds."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.tracking.server import connect
from tests.loopback import wait_until_it_answers

START_SECONDS = 180.0  # MLflow imports for ten seconds, and a busy machine takes longer


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
        wait_until_it_answers(f"{url}/health", server, seconds=START_SECONDS)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def find_runs(uri: str, experiment: str, where: str = "") -> list[Any]:
    """Search the runs of an experiment by MLflow's filter, the newest first."""
    client = connect(uri)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id], where)) if found else []
