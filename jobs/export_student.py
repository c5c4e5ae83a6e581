"""Export a student to .pt2, ONNX and ExecuTorch, in float32 and int8, and measure every file.

    python jobs/export_student.py configs/demo.yaml
    python jobs/export_student.py configs/demo.yaml --formats pt2 onnx
    python jobs/export_student.py configs/demo.yaml --weights best.safetensors

Without --weights: the experiment's own DVFL-Net. Each file is run over all of val beside the
network, and its top-1, size and latency are shown; a model card and export.json lie beside them.
The packages: make install-export (ONNX alone comes with make install).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job

if TYPE_CHECKING:
    from pipeline.stages.export import ExportPlan


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add which student and what becomes of it."""
    parser.add_argument("--weights", metavar="URI", help="a student's weights file")
    parser.add_argument(
        "--formats", nargs="+", default=[], metavar="NAME", help="of pt2, onnx, executorch (all)"
    )
    parser.add_argument(
        "--calibration-clips", type=int, default=128, metavar="N", help="of train, for int8 (128)"
    )


def plan(config: ExperimentConfig, arguments: argparse.Namespace) -> ExportPlan:
    """Find the student and the packages."""
    from pipeline.stages.export import plan_export

    return plan_export(
        config,
        weights=arguments.weights,
        formats=arguments.formats,
        num_calibration_clips=arguments.calibration_clips,
    )


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Run the stage."""
    from pipeline.stages.export import run_export

    run_export(plan(config, arguments))


def show_plan(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Print what the stage would do."""
    print(plan(config, arguments).as_text())


if __name__ == "__main__":
    run_job(__doc__, main, show_plan, add_options=add_options)
