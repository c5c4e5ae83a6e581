"""Measure teacher and student: parameters, GMAC, GFLOP, peak memory, latency of one clip.

    python jobs/model_costs.py configs/demo.yaml
    python jobs/model_costs.py configs/demo.yaml --published --json costs.json

Each network is measured in a fresh process, on the CPU; weights need not be there. A second table
has the papers' figures beside those of their code. --published measures nano, tiny, small and base
at 8 x 224 x 224, too (minutes).
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.results.costs:run_model_costs",
        options={
            "--published": {"action": "store_true", "help": "measure the published variants"},
            "--json": {
                "dest": "json_uri",
                "metavar": "URI",
                "help": "write the measured costs there, too",
            },
        },
    )
