"""The provenance of runs and seals: job, commit, Ray submission, libraries."""

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

from pipeline.config.experiment import ExperimentConfig

# Pixels and logits depend on these.
LIBRARIES = ("torch", "av", "opencv-python-headless", "ray")


def source_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": Path(sys.argv[0]).name}
    if commit := _git("rev-parse", "HEAD"):  # not in the copy that a submitted job gets
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
        tags |= {"git.commit": commit, "git.dirty": str(dirty).lower()}
        tags["mlflow.source.git.commit"] = commit  # MLflow shows its own tag beside the job's name
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    if job_id := submitted.get("metadata", {}).get("job_submission_id"):
        tags["ray.job_id"] = job_id
    return tags


def seal_provenance(config: ExperimentConfig, run_id: str | None) -> dict[str, Any]:
    """Return the part of a seal that no digest covers: how and when the store was made."""
    return {
        "config": config.model_dump(mode="json"),
        "run_id": run_id or "",
        "versions": {name: version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "sealed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
