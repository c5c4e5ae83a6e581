"""The paper's ablation from one cache: temperature x distill_weight x seed, without a teacher.

    python jobs/sweep_kl.py configs/demo.yaml
    python jobs/sweep_kl.py configs/demo.yaml sweep.temperatures=[1,2,5] sweep.seeds=[0,1,2]
    ray job submit --working-dir . -- python jobs/sweep_kl.py configs/demo.yaml

Kill it when you like; the same command trains only the students that are missing.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.sweep import run_sweep

    run_sweep(config, arguments.ray_address)


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    from pipeline.training.sweep import plan_sweep

    print(plan_sweep(config).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan)
