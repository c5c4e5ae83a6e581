"""Run the whole pipeline on one machine: draw videos, then do all that ``jobs/distill.py`` does.

    make demo
    python jobs/demo.py configs/demo.yaml

The same command again does only what is missing.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__, "pipeline.stages.distill:run_distill", plan="pipeline.stages.distill:DistillPlan"
    )
