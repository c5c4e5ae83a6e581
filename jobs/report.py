"""Write one HTML page about an experiment: data, teacher, store, students, mistakes, lineage.

    make report CONFIG=configs/demo.yaml
    python jobs/report.py configs/demo.yaml

The page holds its pictures and needs no network. What is not there yet is named on it; only the
videos must be indexed.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    from pipeline.results.page.page import write_report

    print(write_report(config))


if __name__ == "__main__":
    run_job(__doc__, main)
