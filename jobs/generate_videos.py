"""Write the generated data set that dataset.generated describes: real H.264 files, eight actions.

python jobs/generate_videos.py configs/demo.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.command_line import run_job
from pipeline.config import ExperimentConfig
from pipeline.errors import ConfigError


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Write the videos where the other jobs look for them."""
    from pipeline.generated_videos import generate_videos

    if config.dataset.generated is None:
        raise ConfigError("dataset.generated: is not set; this data set is not a generated one")
    generate_videos(Path(config.dataset.root), **config.dataset.generated.model_dump())


if __name__ == "__main__":
    run_job(__doc__, main)
