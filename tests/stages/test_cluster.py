"""A cluster that is not there, and an error of ours out of what Ray wraps it in."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.stages.cluster import underlying_error
from pipeline.stages.stream import run_tasks
from pipeline.storage.locks import JOB_VARIABLE
from tests.loopback import free_port

ROOT = Path(__file__).parents[2]
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


def run_alone(code: str, *words: str) -> str:
    """Return the last line that a program prints."""
    command, settings = [sys.executable, "-c", code, *words], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.check_output(command, env=settings, text=True).splitlines()[-1]


def test_a_cluster_that_is_not_there_is_named_at_once() -> None:
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    assert f"there is no Ray cluster at {address}: " in run_alone(NOT_THERE, address)
    assert time.monotonic() - started < 30  # imports take long


def test_a_task_s_error_is_said_without_ray_s_traceback() -> None:
    assert run_alone(WRAPPED) == "StorageUnavailable the disk is full"


def test_a_bug_is_not_a_pipeline_error() -> None:
    assert underlying_error(ValueError("a bug")) is None


@pytest.mark.cluster
def test_all_processes_of_a_job_know_its_id(private_ray: str) -> None:
    assert run_tasks(os.getenv, [(JOB_VARIABLE,)]) == [os.environ[JOB_VARIABLE]]
