"""Train the teacher from labels and publish its weights where cache_teacher looks for them.

    python jobs/train_teacher.py configs/demo.yaml
    ray job submit --working-dir . -- python jobs/train_teacher.py configs/demo.yaml

Not needed where you have a teacher's checkpoint: set teacher.weights to it.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.train import run_train_teacher

    run_train_teacher(config, arguments.ray_address)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    from pipeline.training.plan import plan_teacher

    print(plan_teacher(config).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan)
