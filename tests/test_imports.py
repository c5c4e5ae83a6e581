"""What a fresh interpreter loads: help answers at once, and decoders stay small.

The import contracts in ``pyproject.toml`` see every import of our own modules. These tests see what
is really loaded, through other packages too.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS = sorted(path.name for path in (ROOT / "jobs").glob("*.py"))
HEAVY = {"torch", "ray", "mlflow"}
MAX_CPU_SECONDS = 2.0  # of CPU, not of the clock, so that a busy machine does not fail

REPORT = """
import json, sys, time
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}), time.process_time()]))
"""
HELP = """
import contextlib, io, runpy, sys
sys.argv = [{path!r}, "--help"]
text = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
    runpy.run_path(sys.argv[0], run_name="__main__")
assert "usage:" in text.getvalue()
assert "--quiet" in text.getvalue() or sys.argv[0] == "jobs/schema.py"
"""


MISSING = """
import contextlib, io, runpy, sys
sys.argv = [{path!r}, "configs/demo.yaml", "artefacts=/nowhere"]
text = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(text):
    runpy.run_path(sys.argv[0], run_name="__main__")
assert text.getvalue().startswith("StoreIncomplete: there is no manifest at /nowhere/"), text
"""


def run_fresh(code: str) -> tuple[set[str], float]:
    """Run ``code`` in a new interpreter; return the packages it loaded and its CPU seconds."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    packages, seconds = json.loads(done.stdout.splitlines()[-1])
    return set(packages), seconds


def test_configs_and_video_are_light() -> None:
    packages, seconds = run_fresh("import pipeline.config.load, pipeline.frames.video")
    assert not packages & HEAVY
    assert seconds < MAX_CPU_SECONDS


@pytest.mark.parametrize("job", JOBS)
def test_help_answers_at_once(job: str) -> None:
    packages, seconds = run_fresh(HELP.format(path=f"jobs/{job}"))
    assert not packages & HEAVY
    assert seconds < MAX_CPU_SECONDS


@pytest.mark.parametrize("job", ["cache_teacher", "train_student", "evaluate", "doctor"])
def test_a_missing_input_is_said_at_once(job: str) -> None:
    packages, seconds = run_fresh(MISSING.format(path=f"jobs/{job}.py"))
    assert not packages & HEAVY
    assert seconds < MAX_CPU_SECONDS


@pytest.mark.parametrize(
    "module", ["views.clip", "views.decoder", "views.view", "frames.source", "frames.skipping"]
)
def test_decoders_never_load_torch(module: str) -> None:
    packages, _ = run_fresh(f"import pipeline.{module}")
    assert not packages & HEAVY
