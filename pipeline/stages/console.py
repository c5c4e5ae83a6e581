"""The command ``dvflnet JOB ...``, which an installation brings: ``jobs/*.py`` by short names."""

from __future__ import annotations

import ast
import difflib
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pipeline.text_table import text_table

# In the order of an experiment.
JOBS = {
    "distill": "distill",
    "videos": "generate_videos",
    "index": "index_videos",
    "prepare": "prepare_frames",
    "teacher": "train_teacher",
    "cache": "cache_teacher",
    "blend": "blend_stores",
    "doctor": "doctor",
    "train": "train_student",
    "sweep": "sweep",
    "evaluate": "evaluate",
    "predict": "predict",
    "export": "export_student",
    "report": "report",
    "costs": "model_costs",
    "plan": "plan_run",
    "schema": "schema",
    "gc": "gc",
    "demo": "demo",
}


def main() -> None:
    """Run the job that the first word names, as its own file would."""
    _, *words = sys.argv
    if words == ["--version"]:
        print(f"dvflnet {version('dvflnet')}")
    elif words and words[0] in JOBS:
        sys.argv = [f"dvflnet {words[0]}", *words[1:]]
        file = _file(words[0])  # runpy would put its name in place of what was typed
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": "__main__"})
    else:
        known = not words or words[0] in ("-h", "--help")
        usage = "usage: dvflnet JOB [-h] ...\n\n"
        lines = [(f"  {name}", _title(name)) for name in JOBS]
        near = difflib.get_close_matches(words[0], JOBS, n=1) if words else []
        hint = f"; did you mean {near[0]}?" if near else ""
        message = "" if known else f"\n\nthere is no job {words[0]!r}{hint}"
        print(usage + text_table(lines, align="<") + message, file=None if known else sys.stderr)
        sys.exit(0 if known else 2)


def _file(name: str) -> Path:
    spec = find_spec(f"jobs.{JOBS[name]}")
    assert spec is not None, "every installation has the jobs"
    assert spec.origin is not None
    return Path(spec.origin)


def _title(name: str) -> str:
    """Return the first line of a job's help."""
    help_text = ast.get_docstring(ast.parse(_file(name).read_text())) or ""
    return help_text.partition("\n")[0]
