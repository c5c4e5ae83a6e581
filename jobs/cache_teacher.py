"""Stage one: run the teacher over every view of every video, once, into a sealed logit store.

    python jobs/cache_teacher.py configs/demo.yaml
    ray job submit --working-dir . -- python jobs/cache_teacher.py configs/demo.yaml

Kill it when you like; the same command does only what is missing.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.cache import run_cache_teacher

    run_cache_teacher(config, arguments.ray_address)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    from pipeline.stages.cache import plan_cache

    print(plan_cache(config).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan)
