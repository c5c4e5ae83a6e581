"""Databases that two jobs open at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.conftest import ROOT


@pytest.mark.slow
def test_two_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    connect = f"from pipeline.tracking.server import connect; connect('sqlite:///{tmp_path}/db')"
    command = [sys.executable, "-c", connect]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=100)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
