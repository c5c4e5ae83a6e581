"""Stage two: train the student on the cached teacher logits (loss.distill_weight=0: the baseline).

    python jobs/train_student.py configs/demo.yaml
    python jobs/train_student.py configs/demo.yaml loss.distill_weight=0
    python jobs/train_student.py configs/demo.yaml --register demo-student
    ray job submit --working-dir . -- python jobs/train_student.py configs/demo.yaml

Kill it when you like; the same command goes on from the last checkpoint.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.train:run_training",
        plan="pipeline.training.plan:plan_student",
        needs=["manifest", "store"],
        options={
            "--register": {
                "metavar": "NAME",
                "help": "make it a version of this registered model in MLflow, with the alias "
                "'candidate'",
            }
        },
    )
