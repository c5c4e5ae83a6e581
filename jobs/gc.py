"""What did killed writers leave behind? Lists it; with --delete it is removed.

    python jobs/gc.py configs/demo.yaml
    python jobs/gc.py configs/demo.yaml --delete

Temporary files, files in the stores' own folders that are not theirs, and mirrors on this machine
of stores that are gone. Safe beside running jobs: nothing that is younger than a day is touched,
and no journal that is still needed.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this job can be told."""
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--min-age-hours",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="leave alone what is younger (default: 24); must be longer than any one write takes",
    )
    parser.add_argument(
        "--journals",
        action="store_true",
        help="the journals of stores that were sealed before that, too: about half the bytes; but "
        "the doctor loses a witness, and a damaged file of frames must be decoded again",
    )


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """List the garbage and perhaps delete it."""
    from pipeline.stages.collect_garbage import run_gc

    run_gc(
        config,
        delete=arguments.delete,
        min_age_hours=arguments.min_age_hours,
        journals=arguments.journals,
    )


if __name__ == "__main__":
    run_job(__doc__, main, add_options=add_options)
