"""The functions that jobs name exist, and take the options that the jobs declare."""

import argparse
import inspect
import pkgutil
import runpy
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages import command_line

FOLDER = Path(__file__).parents[2] / "jobs"
JOBS = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "predict.py")
SHARED = {"ray_address"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_s_options_reach_its_functions(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    call = inspect.signature(command_line.run_job).bind
    monkeypatch.setattr(
        command_line, "run_job", lambda *args, **named: calls.append(call(*args, **named).arguments)
    )
    runpy.run_path(str(FOLDER / job), run_name="__main__")
    (given,) = calls
    parser = argparse.ArgumentParser()
    options = {
        parser.add_argument(name, **settings).dest
        for name, settings in given.get("options", {}).items()
    }
    stage, plan = parameters(given["stage"]), parameters(given.get("plan"))
    assert options <= stage.keys() | plan.keys()
    for function in (stage, plan):
        needed = {name for name, value in function.items() if value.default is value.empty}
        assert needed <= options | SHARED


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function behind its config or plan."""
    if target is None:
        return {}
    function = pkgutil.resolve_name(target) if isinstance(target, str) else target
    first, *others = inspect.signature(function).parameters.values()
    assert first.name in ("config", "plan")
    return {parameter.name: parameter for parameter in others}
