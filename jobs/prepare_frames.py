"""Prepare frames: 32 candidates of every video as JPEGs, which cost little to read.

    python jobs/prepare_frames.py configs/demo.yaml
    ray job submit --working-dir . -- python jobs/prepare_frames.py configs/demo.yaml

Later jobs read them with ``frames.source=prepared``. Kill it when you like; the same command does
only what is missing. The journal holds every JPEG a second time; from a day after the seal on,
``jobs/gc.py --journals`` deletes it.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.prepare:run_prepare_frames",
        plan="pipeline.stages.prepare:plan_frames",
        needs=["manifest"],
    )
