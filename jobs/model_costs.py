"""What do teacher and student cost? Parameters, GMAC, GFLOP, peak memory, latency of one clip.

    python jobs/model_costs.py configs/demo.yaml
    python jobs/model_costs.py configs/demo.yaml --published --json costs.json

Each network is measured in a fresh process, on the CPU; weights need not be there. Then what the
papers claim beside what their code costs. --published measures nano, tiny, small and base at
8 x 224 x 224, too (minutes).
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this job can be told."""
    parser.add_argument("--published", action="store_true", help="measure the published variants")
    parser.add_argument("--json", metavar="URI", help="write the measured costs there, too")


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Measure and print."""
    from pipeline.results.costs import run_model_costs

    run_model_costs(config, published=arguments.published, json_uri=arguments.json)


if __name__ == "__main__":
    run_job(__doc__, main, add_options=add_options)
