"""Stage one: run the teacher over every view of every video, once, into a sealed logit store.

    python jobs/cache_teacher.py configs/demo.yaml
    ray job submit --working-dir . -- python jobs/cache_teacher.py configs/demo.yaml

Kill it when you like; the same command does only what is missing.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.cache:run_cache_teacher",
        plan="pipeline.stages.cache:plan_cache",
        needs=["manifest", "teacher"],
    )
