"""List the files that killed writers left behind; --delete removes them.

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
                "help": "also the journals of stores that were sealed before that, half the bytes "
                "of a frame store. The doctor can then no longer compare shards with them, and a "
                "damaged file of frames can only be made from the videos again",
            },
        },
    )
