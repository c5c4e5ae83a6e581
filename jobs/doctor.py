"""Examine the sealed logit store: every file, cell and view. Needs no teacher.

    python jobs/doctor.py configs/demo.yaml
    python jobs/doctor.py configs/demo.yaml --verify 64 --json report.json

--verify runs the teacher again on some cells. The exit code is 2 if anything is found.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.doctor:run_doctor",
        needs=["manifest", "store"],
        options={
            "--verify": {
                "dest": "num_verified",
                "type": int,
                "default": 0,
                "metavar": "N",
                "help": "ask the live teacher about N cells",
            },
            "--json": {"dest": "json_uri", "metavar": "URI", "help": "write the report there, too"},
        },
    )
