"""The benchmark report: what is not run again stays, and a failure is not hidden."""

import ast
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks.report import Section, failed, measured, read_sections, write_report

FOLDER = Path(runner.__file__).parent


@pytest.fixture
def teacher():
    return measured("teacher", "## Teacher\n\n| a |\n| --- |\n| 1 |\n\nText.\n", "commit 1")


def test_a_report_is_read_as_it_was_written(teacher):
    broken = failed("decode", "left with\ncode 1", "commit 2", None)
    sections = read_sections(write_report([teacher, broken]))
    assert sections == {"teacher": teacher, "decode": broken}
    assert write_report(sections.values()) == write_report([teacher, broken])


def test_a_failure_stands_above_what_was_measured_before(teacher):
    later = failed("teacher", "left with code 3", "commit 2", teacher)
    text = later.as_markdown()
    assert "> **Failed** `teacher`, commit 2: left with code 3\n" in text
    assert text.endswith(teacher.text + "\n")
    assert read_sections(write_report([later])) == {"teacher": later}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs the runner on fake benchmarks, and the report's path."""
    report = tmp_path / "benchmarks.md"
    monkeypatch.setattr(runner, "REPORT", report)
    monkeypatch.setattr(runner, "QUESTIONS", ("good", "bad"))

    def fake_run(name, before):
        if name == "bad":
            return failed(name, "left with code 1", "commit 2", before)
        return measured(name, f"## {name}", "commit 2")

    monkeypatch.setattr(runner, "run", fake_run)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["benchmarks", *words])
        runner.main()

    return call, report


def test_a_failure_is_written_and_ends_in_an_error(run):
    call, report = run
    with pytest.raises(SystemExit, match="failed: bad"):
        call()
    sections = read_sections(report.read_text())
    assert list(sections) == ["good", "bad"]
    assert sections["bad"].failure


def test_what_is_not_run_again_stays(run):
    call, report = run
    old = Section("bad", "## old text\n\n*commit 1*")
    report.write_text(write_report([old]))
    call("good")
    assert read_sections(report.read_text())["bad"] == old


def test_a_misspelt_benchmark_is_refused(run):
    with pytest.raises(SystemExit, match="2"):
        run[0]("god")


def test_every_benchmark_is_in_the_report():
    """A file with a ``main`` is a benchmark; the others are what benchmarks share."""
    trees = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("[!_]*.py")}
    found = {
        name
        for name, tree in trees.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    }
    assert found == {*runner.QUESTIONS, *runner.ON_A_CONFIG}
