"""An error of ours, out of what Ray wraps it in."""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.cluster import underlying_error

ROOT = Path(__file__).parents[2]
# In a process of its own: Ray reads its settings when it is imported, and stages want to set them.
WRAPPED = """
from ray.exceptions import RayTaskError
from pipeline.cluster import underlying_error
from pipeline.errors import StorageUnavailable
wrapped = RayTaskError("journal_unit", "a traceback", StorageUnavailable("the disk is full"))
known = underlying_error(wrapped.as_instanceof_cause())
print(type(known).__name__, known)
"""


def test_a_task_s_error_is_said_without_ray_s_traceback() -> None:
    command, settings = [sys.executable, "-c", WRAPPED], os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.check_output(command, env=settings, text=True)
    assert said.splitlines()[-1] == "StorageUnavailable the disk is full"


def test_an_error_of_nobody_s_is_none_of_ours() -> None:
    assert underlying_error(ValueError("a bug")) is None
