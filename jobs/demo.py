"""The whole product on one machine, on drawn videos: ``jobs/distill.py`` with a set to draw.

    make demo
    python jobs/demo.py configs/demo.yaml

Run it again: what is done stays done.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(__doc__, "pipeline.stages.distill:run_distill")
