"""Stage two: train the student on the cached teacher logits (loss.distill_weight=0: the baseline).

    python jobs/train_student.py configs/demo.yaml
    python jobs/train_student.py configs/demo.yaml loss.distill_weight=0
    python jobs/train_student.py configs/demo.yaml --register demo-student
    ray job submit --working-dir . -- python jobs/train_student.py configs/demo.yaml

Kill it when you like; the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what happens to the finished student."""
    parser.add_argument(
        "--register",
        metavar="NAME",
        help="make it a version of this registered model in MLflow, with the alias 'candidate'",
    )


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.train import register_student, run_train_student

    result = run_train_student(config, arguments.ray_address)
    if arguments.register:
        register_student(config, result, arguments.register)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    from pipeline.training.plan import plan_student

    print(plan_student(config).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan, add_options=add_options)
