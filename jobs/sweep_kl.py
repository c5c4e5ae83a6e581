"""The old name of jobs/sweep.py, which does the same.

python jobs/sweep.py CONFIG
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.sweep:run_sweep",
        plan="pipeline.training.sweep:plan_sweep",
        needs=["manifest", "store"],
    )
