"""The command line that all jobs share: one config, overrides, options, and exit codes.

It imports nothing heavy, so that ``--help`` answers at once; the stage is imported when it runs.
"""

from __future__ import annotations

import argparse
import inspect
import os
import pkgutil
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config.load import load_config, resolved_yaml
from pipeline.stages.cluster import LOCAL, check_uris_survive, underlying_error
from pipeline.storage.locks import JOB_VARIABLE
from pipeline.tracking.progress import Progress

# A function of the config or its plan, and by keyword of those options that it has parameters for;
# or its name,
# such as "pipeline.stages.cache:run_cache_teacher".
Target = str | Callable[..., Any]


def run_job(
    description: str | None,
    stage: Target,
    plan: Target | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Parse the command line, load the experiment, run a stage and exit with its code.

    ``plan`` makes the plan that the stage runs and ``--dry-run`` prints; without it the stage takes
    the config. ``options`` are the job's own: by name, the arguments of ``add_argument``.
    """
    parser = _parser(description)
    for name, settings in (options or {}).items():
        parser.add_argument(name, **settings)

    def job(arguments: argparse.Namespace) -> None:
        config = load_config(arguments.config, arguments.overrides)
        check_uris_survive(config)
        planned: Any = config if plan is None else _call(plan, config, arguments)
        if not arguments.dry_run:
            _call(stage, planned, arguments)
            return
        print(resolved_yaml(config))
        if plan is not None:
            print(planned.as_text())

    run_tool(job, parser.parse_args())


def run_tool(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Run a command; print an error that the user can act on as text, and exit with its code."""
    Progress.hidden = arguments.quiet
    # The default would leave the run in MLflow RUNNING.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.setdefault(JOB_VARIABLE, uuid.uuid4().hex)
    try:
        main(arguments)
    except Exception as error:
        known = underlying_error(error)
        if known is None:
            raise
        print(f"{type(known).__name__}: {known}", file=sys.stderr)
        sys.exit(known.exit_code)


def _call(target: Target, planned: Any, arguments: argparse.Namespace) -> Any:
    function = pkgutil.resolve_name(target) if isinstance(target, str) else target
    _, *names = inspect.signature(function).parameters  # the first is the config or its plan
    given = vars(arguments)
    return function(planned, **{name: given[name] for name in names if name in given})


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
