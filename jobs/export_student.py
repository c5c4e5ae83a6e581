"""Export a student to .pt2, ONNX and ExecuTorch, in float32 and int8, and measure every file.

    python jobs/export_student.py configs/demo.yaml
    python jobs/export_student.py configs/demo.yaml --formats pt2 onnx
    python jobs/export_student.py configs/demo.yaml --weights best.safetensors

Without --weights: the experiment's own DVFL-Net. Each file is run over all of val beside the
network, and its top-1, size and latency are shown; a model card and export.json lie beside them.
The packages: make install-export (ONNX alone comes with make install).
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.export:run_export",
        plan="pipeline.stages.export:plan_export",
        needs=["manifest"],
        options={
            "--weights": {"metavar": "URI", "help": "a student's weights file"},
            "--formats": {
                "nargs": "+",
                "default": [],
                "metavar": "NAME",
                "help": "of pt2, onnx, executorch (all that are installed)",
            },
            "--calibration-clips": {
                "dest": "num_calibration_clips",
                "type": int,
                "default": 128,
                "metavar": "N",
                "help": "of train, for int8 (128)",
            },
        },
    )
