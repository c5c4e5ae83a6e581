"""How good are teacher and students, side by side? Any number of clips and crops of every video.

    python jobs/evaluate.py configs/demo.yaml                          one view of each video
    python jobs/evaluate.py configs/demo.yaml --clips 4 --crops 3      as published
    python jobs/evaluate.py configs/demo.yaml --checkpoint A.safetensors --checkpoint B.safetensors

Without --checkpoint: the experiment's DVFL-Net and, if it was trained, its VFL-Net. Prints a table
with intervals, writes every prediction as Parquet, and logs a run for each network in MLflow.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job

if TYPE_CHECKING:
    from pipeline.stages.evaluate import EvaluationPlan


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the protocol and the networks."""
    parser.add_argument("--clips", type=int, default=1, help="views in time (default 1)")
    parser.add_argument("--crops", type=int, default=1, help="views in space (default 1)")
    parser.add_argument(
        "--checkpoint", action="append", default=[], metavar="URI", help="a network's weights file"
    )
    parser.add_argument("--no-teacher", action="store_true", help="leave the teacher out")


def plan(config: ExperimentConfig, arguments: argparse.Namespace) -> EvaluationPlan:
    """Find the networks."""
    from pipeline.stages.evaluate import plan_evaluation

    return plan_evaluation(
        config,
        num_clips=arguments.clips,
        num_crops=arguments.crops,
        checkpoints=arguments.checkpoint,
        with_teacher=not arguments.no_teacher,
    )


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.evaluate import run_evaluate

    run_evaluate(plan(config, arguments), arguments.ray_address)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    print(plan(config, arguments).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan, add_options=add_options)
