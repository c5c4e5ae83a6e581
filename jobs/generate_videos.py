"""Write the generated data set that dataset.generated describes, as real H.264 files.

python jobs/generate_videos.py configs/gestures.yaml
"""

from pipeline.config.experiment import ExperimentConfig
from pipeline.stages.command_line import run_job


def generate_videos(config: ExperimentConfig) -> None:
    from pipeline.dataset.generated.videos import generate_dataset

    generate_dataset(config.dataset)


if __name__ == "__main__":
    run_job(__doc__, generate_videos)
