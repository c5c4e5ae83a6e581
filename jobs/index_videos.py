"""Index a data set: annotations and videos become manifest.parquet, every video probed once.

python jobs/index_videos.py configs/demo.yaml
ray job submit --working-dir . -- python jobs/index_videos.py configs/ucf101.yaml
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.index import run_index_videos

    run_index_videos(config, arguments.ray_address)


if __name__ == "__main__":
    run_job(__doc__, main)
