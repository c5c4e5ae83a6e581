"""Which code is running: the job, its commit, and the Ray job that it is part of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def job_name() -> str:
    """Return the file name of the job that was started."""
    return Path(sys.argv[0]).name


def commit_tags() -> dict[str, str]:
    """Return ``git.commit`` and ``git.dirty``.

    Empty without a repository, as in the copy of the sources that a submitted job gets.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"git.commit": commit, "git.dirty": str(bool(changed)).lower()}


def ray_job_tags() -> dict[str, str]:
    """Return ``ray.job_id``, the submission id; empty outside a submitted job."""
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    job_id = submitted.get("metadata", {}).get("job_submission_id")
    return {"ray.job_id": job_id} if job_id else {}


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
