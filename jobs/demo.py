"""Run the whole pipeline on one machine: draw two sets of videos, then do as ``jobs/distill.py``.

    make demo
    python jobs/demo.py configs/demo.yaml

The teacher learns on one set, by configs/demo_teacher.yaml; students on the other, from few labels.
The same command again does only what is missing.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.distill:run_distill",
        plan="pipeline.stages.distill:DistillPlan",
        options={
            "--teacher-config": {
                "default": "configs/demo_teacher.yaml",
                "metavar": "YAML",
                "help": "the experiment that makes the teacher (default configs/demo_teacher.yaml)",
            }
        },
    )
