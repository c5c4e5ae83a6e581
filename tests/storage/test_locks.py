"""Two jobs do not train one run at the same time, and a killed one does not lock it for ever."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import StorageUnavailable
from pipeline.storage.locks import training_alone

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pipeline.storage.locks import training_alone
with training_alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_run_is_trained_by_one_job_until_that_ends(tmp_path: Path) -> None:
    folder = str(tmp_path / "runs" / "nano")
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(StorageUnavailable, match="being trained by another job") as caught,
            training_alone(folder),
        ):
            pass
        assert folder in str(caught.value)
        os.kill(holder.pid, signal.SIGKILL)
    with training_alone(folder):
        pass


def test_an_object_store_has_no_locks() -> None:
    with training_alone("s3://bucket/runs/nano"), training_alone("s3://bucket/runs/nano"):
        pass
