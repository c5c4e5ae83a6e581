"""Is the sealed logit store sound? Examines every file, cell and view; needs no teacher.

    python jobs/doctor.py configs/demo.yaml
    python jobs/doctor.py configs/demo.yaml --verify 64 --json report.json

With --verify the teacher itself is asked again about some cells. Findings exit with code 2.
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
