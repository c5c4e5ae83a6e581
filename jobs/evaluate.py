"""Evaluate teacher and students side by side, with any number of clips and crops of every video.

    python jobs/evaluate.py configs/demo.yaml                          one view of each video
    python jobs/evaluate.py configs/demo.yaml --clips 4 --crops 3      as published
    python jobs/evaluate.py configs/demo.yaml --split test      videos on which nothing was chosen
    python jobs/evaluate.py configs/demo.yaml --checkpoint A.safetensors --checkpoint B.safetensors
    python jobs/evaluate.py configs/demo.yaml --network published.pth      that network alone

Without --checkpoint or --network: the experiment's DVFL-Net and, if it was trained, its VFL-Net. A
network from elsewhere is the config's teacher or student, by its sizes; teacher.class_names is the
order of its head. Prints a table with intervals, writes every prediction as Parquet, and logs a run
for each network in MLflow.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.evaluate:run_evaluate",
        plan="pipeline.stages.evaluate:plan_evaluation",
        needs=["manifest"],
        options={
            "--clips": {
                "dest": "num_clips",
                "type": int,
                "default": 1,
                "metavar": "CLIPS",
                "help": "views in time (default 1)",
            },
            "--crops": {
                "dest": "num_crops",
                "type": int,
                "default": 1,
                "metavar": "CROPS",
                "help": "views in space (default 1)",
            },
            "--checkpoint": {
                "dest": "checkpoints",
                "action": "append",
                "default": [],
                "metavar": "URI",
                "help": "a network's weights file",
            },
            "--network": {
                "dest": "networks",
                "action": "append",
                "default": [],
                "metavar": "URI",
                "help": "a weights file from anywhere, evaluated without the experiment's own",
            },
            "--register": {
                "metavar": "NAME",
                "help": "make the last network a version of this registered model in MLflow",
            },
            "--split": {
                "choices": ["train", "val", "test"],
                "default": "val",
                "help": "whose videos (default val)",
            },
            "--no-teacher": {
                "dest": "with_teacher",
                "action": "store_false",
                "help": "leave the teacher out",
            },
        },
    )
