"""Stage two: train the student on the cached teacher logits (loss.distill_weight=0: the baseline).

    python jobs/train_student.py configs/demo.yaml
    python jobs/train_student.py configs/demo.yaml loss.distill_weight=0
    ray job submit --working-dir . -- python jobs/train_student.py configs/demo.yaml

Kill it when you like; the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse

from pipeline.command_line import run_job
from pipeline.config import ExperimentConfig


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.train_stage import run_train_student

    run_train_student(config, arguments.ray_address)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    from pipeline.training_plans import plan_student

    print(plan_student(config).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan)
