"""Prepare frames: 32 candidates of every video as JPEGs, which cost little to read.

    python jobs/prepare_frames.py configs/demo.yaml
    ray job submit --working-dir . -- python jobs/prepare_frames.py configs/demo.yaml

Later jobs read them with ``frames.source=prepared``. Kill it when you like; the same command does
only what is missing. While a store grows, its journal holds every JPEG once more; a day after the
seal, ``jobs/gc.py --journals`` gives that back.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.prepare import run_prepare_frames

    run_prepare_frames(config, arguments.ray_address)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    from pipeline.stages.prepare import plan_frames

    print(plan_frames(config).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan)
