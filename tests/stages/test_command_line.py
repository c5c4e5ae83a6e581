"""The functions that jobs name exist, and take the options that the jobs declare."""

import argparse
import inspect
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.stages import command_line, console

FOLDER = Path(__file__).parents[2] / "jobs"
OWN_PARSERS = {"blend_stores.py", "predict.py", "schema.py"}  # they read no experiment
JOBS = sorted(path.name for path in FOLDER.glob("*.py") if path.name not in OWN_PARSERS)
SHARED = {"ray_address", "dry_run"}


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
    functions = [parameters(given.get(name)) for name in ("stage", "plan", "find_experiment")]
    assert options <= set().union(*functions)
    for function in functions:
        needed = {name for name, value in function.items() if value.default is value.empty}
        assert needed <= options | SHARED


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("--epochs 3 x.yaml", "epochs=3 x.yaml"),
        ("x.yaml --quiet --train.epochs=3 a.b=c", "x.yaml --quiet train.epochs=3 a.b=c"),
        ("x.yaml --batch-size 4 --weights w.pth", "x.yaml batch_size=4 --weights w.pth"),
    ],
)
def test_settings_may_be_written_as_options(words: str, overrides: str) -> None:
    own = {*command_line.SHARED_OPTIONS, "--weights"}
    assert command_line.settings_as_overrides(words.split(), own) == overrides.split()


def test_a_teacher_that_brings_its_weights_needs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = {"name": "d", "root": str(tmp_path), "layout": "folders"}
    ran: list[str] = []

    def stage(config: Any) -> None:
        ran.append(config.teacher.network)

    for teacher in (
        {"network": str(tmp_path / "teacher.pt2")},
        {"network": "package.module:build", "class_names": "as_dataset"},
        {"network": "package.module:build"},
        {"variant": "nano"},
    ):
        path = tmp_path / "experiment.yaml"
        values = {"artefacts": str(tmp_path), "dataset": dataset, "teacher": teacher}
        path.write_text(yaml.safe_dump(values))
        monkeypatch.setattr(sys, "argv", ["job", str(path)])
        if len(ran) < 2:
            command_line.run_job("", stage, needs=["teacher"])
            continue
        with pytest.raises(SystemExit):
            command_line.run_job("", stage, needs=["teacher"])
        assert "there is no teacher at" in capsys.readouterr().err
    assert ran == [str(tmp_path / "teacher.pt2"), "package.module:build"]


def test_the_console_command_has_every_job() -> None:
    assert set(console.JOBS.values()) == {path.stem for path in FOLDER.glob("*.py")} - {"sweep_kl"}
    command = [sys.executable, "-c", "from pipeline.stages.console import main; main()"]
    ask = [*command, "train", "configs/demo.yaml", "--epochs", "3", "--show-config", "lr=0.5"]
    shown = subprocess.check_output(ask, text=True, cwd=FOLDER.parent)
    values = yaml.safe_load(shown)
    assert (values["train"]["epochs"], values["optim"]["lr"]) == (3, 0.5)
    unknown = subprocess.run([*command, "nothing"], cwd=FOLDER.parent, check=False)
    assert unknown.returncode == 2


def test_a_notebook_s_backend_of_figures_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code = (
        "import argparse; from pipeline.stages.command_line import run_tool;"
        "run_tool(lambda _: __import__('pipeline.results.figures'), argparse.Namespace(quiet=True))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, check=True)


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function behind its config, its plan or what was given."""
    if target is None:
        return {}
    function = pkgutil.resolve_name(target) if isinstance(target, str) else target
    first, *others = inspect.signature(function).parameters.values()
    assert first.name in ("config", "plan", "given")
    return {parameter.name: parameter for parameter in others}
