"""What all jobs share on the command line: one config, overrides, and exit codes.

Imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from pipeline.config.load import load_config, resolved_yaml
from pipeline.config.schema import ExperimentConfig
from pipeline.errors import PipelineError
from pipeline.stages.cluster import LOCAL, check_uris_survive, underlying_error
from pipeline.tracking.progress import Progress

Stage = Callable[[ExperimentConfig, argparse.Namespace], object]


def run_job(
    description: str | None,
    stage: Stage,
    dry_run: Stage | None = None,
    *,
    add_options: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Parse the command line, load the experiment, run a stage and leave with its exit code.

    Args:
        description: the job's module docstring.
        stage: does the work.
        dry_run: prints what ``stage`` would do; without it, ``--dry-run`` prints the config only.
        add_options: adds what only this job can be told.

    """
    parser = _parser(description)
    if add_options is not None:
        add_options(parser)

    def job(arguments: argparse.Namespace) -> None:
        config = load_config(arguments.config, arguments.overrides)
        check_uris_survive(config)
        if arguments.dry_run:
            print(resolved_yaml(config))
            if dry_run is not None:
                dry_run(config, arguments)
        else:
            stage(config, arguments)

    run_tool(job, parser.parse_args())


def run_tool(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Do what a command is for; what a user can act on is said in words, with its exit code."""
    Progress.hidden = arguments.quiet
    signal.signal(signal.SIGTERM, _leave)  # the default would leave the run in MLflow RUNNING
    try:
        main(arguments)
    except Exception as error:
        known = underlying_error(error)
        if known is None:
            raise
        sys.exit(_say(known))


def _leave(signal_number: int, _: FrameType | None) -> None:
    sys.exit(128 + signal_number)


def _say(error: PipelineError) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def _parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="the experiment's YAML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # or argparse calls it required
        metavar="section.key=value",
        help="settings to use instead",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and the plan, and stop"
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print plan, warnings and results, but no progress"
    )
    parser.add_argument(
        "--ray-address",
        default=LOCAL,
        metavar="ADDRESS",
        help="a running cluster (host:port); by default a private Ray that ends with the job. "
        "Inside 'ray job submit' the job's cluster is used",
    )
    return parser
