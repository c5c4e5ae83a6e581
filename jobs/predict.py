"""Predict the classes of videos, with a network that train_student (or train_teacher) wrote.

    python jobs/predict.py last.safetensors video.mp4 folder/ s3://bucket/more/
    python jobs/predict.py last.safetensors long.mp4 --window-seconds 2 --output looked-at
    python jobs/predict.py last.safetensors video.mp4 --json
    python jobs/predict.py published.pth video.mp4 --config configs/ucf101_published.yaml

Classes, clips and preprocessing are in the weights file; no config, no data set and no Ray are
needed. A file from elsewhere takes them from the experiment in --config. A video may be of any
length, unless --max-seconds, --max-bytes or --decode-seconds refuse it. A video that cannot be read
is named, and the others are still predicted (exit code 3). Files that are left out are listed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pipeline.errors import TooManyFailedVideos
from pipeline.stages.command_line import run_tool


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", help="best.safetensors or last.safetensors of a run")
    parser.add_argument("videos", nargs="+", help="files, folders or URIs")
    parser.add_argument("--config", help="the experiment that describes a file from elsewhere")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="classes shown (3)")
    parser.add_argument("--clips", type=int, default=1, help="views in time (1)")
    parser.add_argument("--crops", type=int, default=1, help="views in space (1)")
    parser.add_argument("--window-seconds", type=float, help="slide a window over each video")
    parser.add_argument("--stride-seconds", type=float, help="move it by this (half a window)")
    parser.add_argument("--max-seconds", type=float, help="refuse longer videos (none is too long)")
    parser.add_argument("--max-bytes", type=int, help="refuse larger files (8 GiB)")
    parser.add_argument("--decode-seconds", type=float, help="give up a video after this (3600)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for timelines and videos")
    parser.add_argument("--annotate", action="store_true", help="write videos with the answer")
    arguments = parser.parse_args()
    if arguments.annotate and arguments.output is None:
        parser.error("--annotate writes videos: say where with --output FOLDER")
    return arguments


def main(arguments: argparse.Namespace) -> None:
    from pipeline.results.prediction import (
        Predictor,
        find_videos,
        load_described,
        look_at_all,
        plan_limits,
        plan_looks,
    )
    from pipeline.results.prediction_pages import left_out_table, prediction_table, write_pages

    protocol, windows = plan_looks(
        arguments.clips, arguments.crops, arguments.window_seconds, arguments.stride_seconds
    )
    limits = plan_limits(arguments.max_seconds, arguments.max_bytes, arguments.decode_seconds)
    uris, left_out = find_videos(arguments.videos)
    print(left_out_table(left_out), end="", file=sys.stderr)
    trained = load_described(arguments.weights, arguments.config)
    if trained.stripped:
        print(f"weights: {trained.title}", file=sys.stderr)
    with Predictor(
        trained, protocol=protocol, windows=windows, limits=limits, device=arguments.device
    ) as predictor:
        predictions, failures = look_at_all(predictor, uris)
    if arguments.json:
        print(json.dumps([found.as_dict(arguments.top) for found in predictions], indent=2))
    else:
        print(prediction_table(predictions, arguments.top))
    if arguments.output is not None:
        written = write_pages(predictions, arguments.output, limits, annotate=arguments.annotate)
        print("\n".join(f"written: {path}" for path in written), file=sys.stderr)
    if failures:
        reasons = "\n  ".join(map(str, failures))
        raise TooManyFailedVideos(f"{len(failures)} of {len(uris)} videos are bad:\n  {reasons}")


if __name__ == "__main__":
    run_tool(main, parse())
