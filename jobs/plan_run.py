"""What will a run cost on a cluster? Hours, bytes, bottleneck, and what the cache is worth.

    python jobs/plan_run.py configs/demo.yaml --nodes 4 --cpus-per-node 32 --gpus-per-node 8
    python jobs/plan_run.py configs/demo.yaml --costs costs.json

Measures what one clip costs on this machine, or takes it from --costs, a file that --write-costs
wrote on a machine like the cluster's. Needs the manifest and the teacher's weights; no Ray.
"""

from __future__ import annotations

import argparse

from pipeline.config.schema import ExperimentConfig
from pipeline.stages.command_line import run_job


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the cluster's shape and where the costs come from."""
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--cpus-per-node", type=int, default=2)
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument("--costs", metavar="URI", help="measured before; nothing is measured")
    parser.add_argument("--write-costs", metavar="URI", help="write what was measured there")


def main(config: ExperimentConfig, arguments: argparse.Namespace) -> None:
    """Measure or read the costs and print the forecast."""
    from pipeline.results.forecast import ClusterShape
    from pipeline.stages.forecast import forecast_experiment, write_costs

    shape = ClusterShape(arguments.nodes, arguments.cpus_per_node, arguments.gpus_per_node)
    found = forecast_experiment(config, shape, costs_uri=arguments.costs)
    if arguments.write_costs:
        write_costs(arguments.write_costs, found.costs)
    print(found.as_text())


if __name__ == "__main__":
    run_job(__doc__, main, add_options=add_options)
