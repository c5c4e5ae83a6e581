"""Which code is running: the job, its commit, its libraries, and the Ray job it is part of."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.config.schema import ExperimentConfig

# What pixels and logits come from.
LIBRARIES = ("torch", "av", "opencv-python-headless", "ray")


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


def seal_provenance(config: ExperimentConfig, run_id: str | None) -> dict[str, Any]:
    """What is good to know of the making and decides nothing: the soft part of a seal."""
    return {
        "config": config.model_dump(mode="json"),
        "run_id": run_id or "",
        "versions": {name: version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "sealed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
