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
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import is_setting, load_config, resolved_yaml
from pipeline.errors import StoreIncomplete
from pipeline.stages.cluster import LOCAL, check_uris_survive, underlying_error
from pipeline.storage.files import exists, join_uri
from pipeline.storage.locks import JOB_VARIABLE
from pipeline.storage.sealed.identity import IDENTITY_NAME
from pipeline.tracking.progress import Progress

# A function, or its name, such as "pipeline.stages.cache:run_cache_teacher". It is called with the
# config or its plan, and by keyword with the options that it has parameters for.
Target = str | Callable[..., Any]
SHARED_OPTIONS = ("--help", "--dry-run", "--show-config", "--quiet", "--ray-address")


def run_job(
    description: str | None,
    stage: Target,
    plan: Target | None = None,
    needs: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    find_experiment: Target | None = None,
) -> None:
    """Parse the command line, load the experiment, run a stage and exit with its code.

    ``plan`` makes the plan that the stage runs and ``--dry-run`` prints; without it the stage takes
    the config. ``needs`` are the inputs without which it cannot begin, see ``_check_inputs``.
    ``options`` maps the job's own options to their arguments of ``add_argument``.
    ``find_experiment`` turns a first argument that is no YAML file into the path of
    one, and its text if it is to be written there.
    """
    parser = _parser(description)
    for name, settings in (options or {}).items():
        parser.add_argument(name, **settings)
    words = settings_as_overrides(sys.argv[1:], {*SHARED_OPTIONS, *(options or {})})

    def job(arguments: argparse.Namespace) -> None:
        given = arguments.config
        path, text = _call(find_experiment, given, arguments) if find_experiment else (given, None)
        config = load_config(path, arguments.overrides, text)
        if text is not None and not (arguments.dry_run or arguments.show_config):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
        check_uris_survive(config)
        if arguments.show_config:
            print(resolved_yaml(config), end="")
            return
        _check_inputs(config, needs)
        planned: Any = config if plan is None else _call(plan, config, arguments)
        if not arguments.dry_run:
            _call(stage, planned, arguments)
            return
        if plan is None:
            print(f"{parser.prog} with {arguments.config}, artefacts in {config.artefacts}")
        else:
            print(planned.as_text())

    run_tool(job, parser.parse_intermixed_args(words))


def run_tool(main: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    """Run a command; print an error that the user can act on as text, and exit with its code."""
    Progress.hidden = arguments.quiet
    signals = [signal.SIGINT]

    def stop(number: int, _: object) -> None:
        signals.append(signal.Signals(number))
        raise KeyboardInterrupt  # a SystemExit that meets Ray waiting ends with exit code 1

    signal.signal(signal.SIGTERM, stop)  # the default would leave the run in MLflow RUNNING
    os.environ.setdefault(JOB_VARIABLE, uuid.uuid4().hex)
    os.environ["MPLBACKEND"] = "agg"  # a notebook names its own, which need not be installed here
    try:
        main(arguments)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(128 + signals[-1])
    except Exception as error:
        known = underlying_error(error)
        if known is None:
            raise
        print(f"{type(known).__name__}: {known}", file=sys.stderr)
        sys.exit(known.exit_code)


def settings_as_overrides(words: Sequence[str], options: Collection[str]) -> list[str]:
    """Turn ``--epochs 3`` and ``--train.epochs=3`` into overrides; a job's own options stay."""
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, separator, value = word.removeprefix("--").partition("=")
        own = any(option.startswith(f"--{name}") for option in options)
        if word.startswith("--") and not own and is_setting(name := name.replace("-", "_")):
            word = f"{name}={value if separator or not rest else rest.pop(0)}"
        found.append(word)
    return found


def _check_inputs(config: ExperimentConfig, needs: Sequence[str]) -> None:
    """Look for a job's inputs before torch and MLflow are imported, which takes seconds."""
    inputs = {
        "manifest": (config.manifest_uri, "", "jobs/index_videos.py"),
        "store": (config.store_uri, IDENTITY_NAME, "jobs/cache_teacher.py"),
        "teacher": (
            config.teacher_weights_uri,
            "",
            "jobs/train_teacher.py, or set teacher.weights",
        ),
    }
    for name in needs:
        if name == "teacher" and config.teacher.brings_weights:
            continue
        uri, file, job = inputs[name]
        if not exists(join_uri(uri, file) if file else uri):
            raise StoreIncomplete(f"there is no {name} at {uri}; run {job} first")


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
        help="settings to use instead; also --section.key value, and without a section where the "
        "key is in one section alone",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, change nothing, and stop"
    )
    parser.add_argument("--show-config", action="store_true", help="print every setting, and stop")
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
