"""Does the real teacher run the real stage? Video-FocalNet-Base at 8 x 224 x 224 on a few clips.

    python benchmarks/base_teacher.py --root ../shared/data/egogestar [--videos 8]

Indexes a slice of a data set in UCF101 layout, writes a Base teacher with random weights (157 M
parameters; what it says means nothing, what it costs does), and runs benchmarks/stage_one.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from dvflnet import build_model
from pipeline.weight_files import write_weights

HERE = Path(__file__).parent


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classes = slice_data_set(arguments.root, folder / "videos", arguments.videos)
        torch.manual_seed(0)
        teacher = build_model("base", len(classes), 8)
        weights = folder / "artefacts" / "teacher" / "best.safetensors"
        write_weights(str(weights), teacher.state_dict(), {}, class_names=classes)
        config = write_config(folder, len(classes), arguments.views)
        python = [sys.executable]
        subprocess.run([*python, HERE.parent / "jobs" / "index_videos.py", config], check=True)
        subprocess.run([*python, HERE / "stage_one.py", config], check=True)


def slice_data_set(root: Path, folder: Path, num_videos: int) -> list[str]:
    """Link the first videos of a list, alternating between its classes."""
    lines = (root / "splits" / "trainlist01.txt").read_text().splitlines()
    chosen = [line.split()[0] for line in lines[:: max(1, len(lines) // num_videos)]][:num_videos]
    for split, paths in (("train", chosen[1:]), ("val", chosen[:1])):
        for path in paths:
            target = folder / split / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to((root / path).resolve())
    return sorted({path.split("/")[0] for path in chosen})


def write_config(folder: Path, num_classes: int, num_views: int) -> Path:
    values = {
        "artefacts": str(folder / "artefacts"),
        "dataset": {
            "name": "slice",
            "root": str(folder / "videos"),
            "layout": "folders",
            "num_classes": num_classes,
        },
        "views": {"num_views": num_views, "flip_probability": 0},
        "store": {"clips_per_unit": 2 * num_views},
        "cluster": {"num_decoders": 1, "teacher_batch_size": 1},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
    }
    path = folder / "base.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("../shared/data/egogestar"))
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--views", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
