"""The documented commands on a real job server: ray start, then ray job submit."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.logits.store import open_store
from pipeline.storage.files import read_json
from tests.loopback import free_port, wait_until_it_answers
from tests.mlflow_server import find_runs
from tests.stages.conftest import index, write_teacher

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
HEAD = "127.0.0.2"  # Ray replaces 127.0.0.1 by the machine's outer address
Submit = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def submit() -> Iterator[Submit]:
    """Start a head of our own, with token authentication; submit jobs to it."""
    # Not pytest's own folder: Ray's sockets lie below, and a socket's path has 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-") as name:
        yield from running_head(Path(name))


def running_head(folder: Path) -> Iterator[Submit]:
    token = folder / "token"
    token.write_text("t" * 64)
    environment = os.environ | {
        # As in an activated environment: the job's "python" is looked up by the head.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # The private Ray of other tests, which may live in this process, has no dashboard.
    environment.pop("RAY_API_SERVER_ADDRESS", None)
    port, dashboard, agent, client = (free_port() for _ in range(4))
    output = (folder / "head.log").open("wb")
    head = subprocess.Popen(
        [
            *(*RAY, "start", "--head", "--block", f"--node-ip-address={HEAD}", f"--port={port}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
            *(f"--temp-dir={folder}/session", "--num-cpus=2", "--object-store-memory=200000000"),
            "--disable-usage-stats",
        ],
        env=environment,
        start_new_session=True,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    wait_until_it_answers(f"http://127.0.0.1:{dashboard}", head, seconds=120)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        """Submit a job, again while the head's agent, which starts last, is not there yet."""
        deadline = time.monotonic() + 120
        while "No available agent" in (done := submit_once(*command)).stderr + done.stdout:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(2)
        return done

    def submit_once(*command: str) -> subprocess.CompletedProcess[str]:
        address = f"http://127.0.0.1:{dashboard}"
        return subprocess.run(
            [
                *(*RAY, "job", "submit", f"--address={address}", "--working-dir=."),
                *("--runtime-env=configs/ray/runtime_env.yaml", "--", "python", *command),
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    yield run
    os.killpg(head.pid, signal.SIGKILL)  # after a SIGTERM it takes over 20 s
    head.wait()
    output.close()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, write_experiment: Any) -> Path:
    path: Path = write_experiment(tmp_path_factory.mktemp("experiment"))
    index(load_config(path))
    write_teacher(load_config(path))
    return path


def test_both_stages_as_submitted_jobs(submit: Submit, experiment: Path) -> None:
    for job in ("cache_teacher", "train_student"):
        done = submit(f"jobs/{job}.py", str(experiment))
        assert done.returncode == 0, done.stdout + done.stderr
    config = load_config(experiment)
    store = open_store(config.store_uri)
    store.verify()
    result = next(Path(config.artefacts).glob("runs/dvflnet-*/result.json"))
    assert 0.0 <= read_json(str(result))["metrics"]["last/top1"] <= 1.0
    runs = find_runs(config.tracking_uri, "tiny")
    assert {run.data.tags["stage"] for run in runs} == {"cache_teacher", "train_student"}
    assert all(run.data.tags["ray.job_id"].startswith("raysubmit_") for run in runs)
    again = submit("jobs/cache_teacher.py", str(experiment))
    assert "sealed, nothing to do" in again.stdout


def test_artefacts_inside_the_job_are_refused(submit: Submit, experiment: Path) -> None:
    done = submit("jobs/index_videos.py", str(experiment), "artefacts=artefacts/demo")
    assert done.returncode != 0
    assert "ConfigError" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout.split("ConfigError")[1]
