"""docs/quickstart.ipynb, cell by cell: from a folder of videos to an exported student."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"
SHELL = re.compile(r"^!(.*)$", re.MULTILINE)  # as IPython: a command, with {names} filled in
RUN = "import subprocess\nsubprocess.run(f'''{}''', shell=True, check=True)"


def test_every_cell_runs(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 6
    script = "\n".join(SHELL.sub(lambda found: RUN.format(found[1]), cell) for cell in code)
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "1. index: which videos are good" in done.stdout  # the plan
    assert "Distillation changed the student's top-1" in done.stdout
    assert "[('" in done.stdout  # the answers for a video
    assert "student.onnx" in done.stdout or ".pt2" in done.stdout
    assert (tmp_path / "run/artefacts/report.html").stat().st_size > 50_000
