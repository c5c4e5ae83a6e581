"""Is the sealed logit store sound? Examines every file, cell and view; needs no teacher.

    python jobs/doctor.py configs/demo.yaml
    python jobs/doctor.py configs/demo.yaml --verify 64 --json report.json

With --verify the teacher itself is asked again about some cells. Leaves with 2 if something
is wrong.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this job can be told."""
    parser.add_argument(
        "--verify", type=int, default=0, metavar="N", help="ask the live teacher about N cells"
    )
    parser.add_argument("--json", metavar="URI", help="write the report there, too")


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Examine the store."""
    from pipeline.stages.doctor import run_doctor

    run_doctor(config, num_verified=arguments.verify, json_uri=arguments.json)


if __name__ == "__main__":
    run_job(__doc__, main, add_options=add_options)
