"""Train the teacher from labels and publish its weights where cache_teacher looks for them.

    python jobs/train_teacher.py configs/demo.yaml
    ray job submit --working-dir . -- python jobs/train_teacher.py configs/demo.yaml

Not needed if you have a teacher's checkpoint: set teacher.weights to it.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.train:run_training",
        plan="pipeline.training.plan:plan_teacher",
        needs=["manifest"],
    )
