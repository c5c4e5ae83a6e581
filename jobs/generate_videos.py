"""Write the generated data set that dataset.generated describes, as real H.264 files.

python jobs/generate_videos.py configs/gestures.yaml
"""

from __future__ import annotations

import argparse

from pipeline.command_line import run_job
from pipeline.config import ExperimentConfig


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Write the videos where the other jobs look for them."""
    from pipeline.generated_videos import generate_dataset

    generate_dataset(config.dataset)


if __name__ == "__main__":
    run_job(__doc__, main)
