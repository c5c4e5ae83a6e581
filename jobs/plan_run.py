"""Forecast a run on a cluster: hours, bytes, bottleneck, and when the cache has paid off.

    python jobs/plan_run.py configs/demo.yaml --nodes 4 --cpus-per-node 32 --gpus-per-node 8
    python jobs/plan_run.py configs/demo.yaml --costs costs.json

Measures what one clip costs on this machine, or takes it from --costs, a file that --write-costs
wrote on a machine like the cluster's. Needs the manifest and the teacher's weights; no Ray.
"""

from pipeline.stages.command_line import run_job

if __name__ == "__main__":
    run_job(
        __doc__,
        "pipeline.stages.forecast:run_forecast",
        needs=["manifest"],
        options={
            "--nodes": {"type": int, "default": 1},
            "--cpus-per-node": {"type": int, "default": 2},
            "--gpus-per-node": {"type": int, "default": 0},
            "--costs": {"metavar": "URI", "help": "read the costs there, and measure none"},
            "--write-costs": {"metavar": "URI", "help": "write the measured costs there"},
        },
    )
