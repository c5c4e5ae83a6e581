"""What did killed writers leave behind? Lists it; with --delete it is removed.

    python jobs/gc.py configs/demo.yaml
    python jobs/gc.py configs/demo.yaml --delete

Temporary files, files in the stores' own folders that are not theirs, and mirrors on this machine
of stores that are gone. Safe beside running jobs: nothing that is younger than a day is touched,
and no journal that is still needed.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.collect_garbage:run_gc",
        options={
            "--delete": {"action": "store_true", "help": "delete what is listed"},
            "--min-age-hours": {
                "type": float,
                "default": 24.0,
                "metavar": "HOURS",
                "help": "leave alone what is younger (default: 24); must be longer than any one "
                "write takes",
            },
            "--journals": {
                "action": "store_true",
                "help": "the journals of stores that were sealed before that, too: about half the "
                "bytes; but the doctor loses a witness, and a damaged file of frames must be "
                "decoded again",
            },
        },
    )
