"""A cluster that is not there, and an error of ours out of what Ray wraps it in."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config.load import load_config
from pipeline.errors import ClusterUnavailable, ConfigError
from pipeline.stages.cluster import LOCAL, ray_session, underlying_error
from pipeline.stages.stream import run_tasks
from pipeline.storage.locks import JOB_VARIABLE
from tests.loopback import free_port
from tests.stages.nodes import NODE, running_cluster

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs" / "demo.yaml"
# In a process of its own: Ray reads its settings when it is imported, and stages want to set them.
WRAPPED = """
from ray.exceptions import RayTaskError
from pipeline.stages.cluster import underlying_error
from pipeline.errors import StorageUnavailable
wrapped = RayTaskError("journal_unit", "a traceback", StorageUnavailable("the disk is full"))
known = underlying_error(wrapped.as_instanceof_cause())
print(type(known).__name__, known)
"""

NOT_THERE = """
import sys
from pipeline.stages.cluster import ray_session
from pipeline.errors import ClusterUnavailable
try:
    with ray_session(None, sys.argv[1], num_cpus=1):
        pass
except ClusterUnavailable as error:
    print(error)
"""

HOMELESS = """
import sys
from pipeline.config.load import load_config
from pipeline.stages.cluster import LOCAL, ray_session
with ray_session(load_config(sys.argv[1]), LOCAL, num_cpus=1):
    import ray
    print(ray.get(ray.remote(lambda: 4).remote()))
"""

# Blocks come until the file of the last word is there; a line for each that is done.
AUTO = """
import itertools, pathlib, sys
import pyarrow as pa
from pipeline.config.load import load_config
from pipeline.stages.cluster import ray_session
from pipeline.stages.pool_sizes import ClusterPools
from pipeline.stages.stream import Step, stream
from tests.stages.pool_steps import Adder, Waiter
config, address, stop = sys.argv[1:]
config = load_config(config, ["cluster.num_decoders=auto", "cluster.num_teachers=auto"])
numbers = itertools.takewhile(lambda _: not pathlib.Path(stop).exists(), itertools.count())
with ray_session(config, address, num_cpus=1.5):
    pools = ClusterPools(config)
    pools.show()
    steps = Step(Adder, (), pools.num_decoders), Step(Waiter, (), pools.num_teachers)
    for table in stream((pa.table({"number": [number]}) for number in numbers), *steps):
        print(table["number"][0], table["node"][0], flush=True)
"""


def run_alone(code: str, *words: str) -> str:
    """Return the last line that a program prints."""
    command, settings = [sys.executable, "-c", code, *words], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.check_output(command, env=settings, text=True).splitlines()[-1]


def test_a_cluster_that_is_not_there_is_named_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    assert f"there is no Ray cluster at {address}: " in run_alone(NOT_THERE, address)
    assert time.monotonic() - started < 30  # imports take long


@pytest.mark.cluster
def test_a_private_ray_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc")  # where nobody can write
    assert run_alone(HOMELESS, str(DEMO)) == "4"


def test_a_task_s_error_is_said_without_ray_s_traceback() -> None:
    assert run_alone(WRAPPED) == "StorageUnavailable the disk is full"


def test_a_bug_is_not_a_pipeline_error() -> None:
    assert underlying_error(ValueError("a bug")) is None


@pytest.mark.cluster
def test_all_processes_of_a_job_know_its_id(private_ray: str) -> None:
    assert run_tasks(os.getenv, [(JOB_VARIABLE,)]) == [os.environ[JOB_VARIABLE]]


@pytest.mark.cluster
def test_gpus_that_are_not_there_are_said_before_any_work(private_ray: str) -> None:
    config = load_config(DEMO, ["cluster.use_gpu=true"])
    with (
        pytest.raises(ConfigError, match="has 0 of 1 GPUs that this stage needs"),
        ray_session(config, LOCAL, num_cpus=1, num_networks=1),
    ):
        pass


class Holder:
    """An actor of somebody else."""


@pytest.mark.cluster
def test_cpus_that_others_use_are_waited_for(
    private_ray: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    config = load_config(DEMO, ["cluster.wait_seconds=4"])
    num_cpus = ray.cluster_resources()["CPU"]
    holder = ray.remote(num_cpus=1)(Holder).remote()
    ray.get(holder.__ray_ready__.remote())
    with (
        pytest.raises(ClusterUnavailable, match=rf"{num_cpus - 1:g} of {num_cpus:g} CPUs are free"),
        ray_session(config, LOCAL, num_cpus=num_cpus),
    ):
        pass
    assert f"{num_cpus - 1:g} of {num_cpus:g} CPUs are free, waiting 4 s" in capsys.readouterr().out
    ray.kill(holder)
    with ray_session(config, LOCAL, num_cpus=num_cpus):
        pass


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_auto_pools_follow_nodes_that_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = tmp_path / "stop"
    with running_cluster(tmp_path, monkeypatch, num_nodes=1) as cluster, ExitStack() as stack:
        (first,) = cluster.worker_nodes
        command = [sys.executable, "-c", AUTO, str(DEMO), cluster.address, str(stop)]
        settings = os.environ | {"PYTHONPATH": str(ROOT)}
        job = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings)
        )
        stack.callback(job.kill)
        lines = iter(job.stdout or ())
        assert "decoders 1, teachers 1: the cluster has 2 cores" in next(lines)
        # Ray's own words about nodes that leave may stand between.
        rows = (line.split() for line in lines if re.fullmatch(r"\d+ \w{56}\n", line))
        done = [next(rows)]

        def wait_for(node: str) -> None:
            while done[-1][1] != node:
                done.append(next(rows))

        wait_for(first.node_id)
        second = cluster.add_node(**NODE)
        wait_for(second.node_id)
        first.kill_all_processes(check_alive=False, allow_graceful=False)
        for _ in range(10):  # more than were on their way
            done.append(next(rows))
            wait_for(second.node_id)
        stop.touch()
        done += rows
        assert job.wait() == 0
    assert sorted(int(number) for number, _ in done) == list(range(1, len(done) + 1))


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("send", "number", "code", "job_name"),
    [
        (os.killpg, signal.SIGINT, 130, "cache_teacher"),  # as a terminal does at Ctrl-C
        pytest.param(os.kill, signal.SIGINT, 130, "train_student", marks=pytest.mark.chaos),
        (os.kill, signal.SIGTERM, 143, "train_student"),
    ],
)
def test_a_stopped_job_says_so_and_leaves_nothing_behind(
    send: Any, number: int, code: int, job_name: str, cached: Path, tmp_path: Path, start_job: Any
) -> None:
    config = load_config(cached)
    (tmp_path / "manifest.parquet").write_bytes(Path(config.manifest_uri).read_bytes())
    words = [f"artefacts={tmp_path}", f"teacher.weights={config.teacher_weights_uri}"]
    if job_name == "cache_teacher":
        words += ["store.clips_per_unit=2", "cluster.num_decoders=1"]
        begun = lambda: list(tmp_path.glob("store/journal/unit-*"))  # noqa: E731
    else:
        words += [f"store.uri={config.store_uri}", "train.epochs=50"]
        begun = lambda: list(tmp_path.glob("runs/*/epoch_*/checkpoint.json"))  # noqa: E731
    job = start_job(job_name, cached, *words)
    while not begun():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    workers = psutil.Process(job.pid).children(recursive=True)
    send(job.pid, number)
    output, _ = job.communicate(timeout=100)
    assert job.returncode == code, output
    assert output.rstrip().endswith("stopped; the same command goes on")
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
