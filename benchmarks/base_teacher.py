"""Does the real teacher run the real stage? Video-FocalNet-Base at 8 x 224 x 224 on a few clips.

    python -m benchmarks.base_teacher [--groups 2]

Base has random weights (157 M parameters): what it says means nothing, what it costs does.
"""

from __future__ import annotations

import argparse
import tempfile

from benchmarks.small_experiment import build_experiment
from benchmarks.stage_one import print_comparison


def main() -> None:
    groups = parse().groups
    with tempfile.TemporaryDirectory() as folder:
        config = build_experiment(
            folder,
            f"dataset.generated={{num_groups: {groups}, num_val_groups: 1, clips_per_group: 1}}",
            "teacher={variant: base}",
            "clip.side=224",
            "views.num_views=1",
            "store.clips_per_unit=4",
            "cluster.teacher_batch_size=1",
        )
        print_comparison("Video-FocalNet-Base in stage one", config, folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", type=int, default=2, help="of eight videos each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
