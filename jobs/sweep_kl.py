"""The old name of jobs/sweep.py, which it runs."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("sweep.py")), run_name="__main__")
