"""The benchmark report: what is not run again stays, and a failure is not hidden."""

import ast
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks.report import Section, failed, measured, read_sections, write_report

FOLDER = Path(runner.__file__).parent


TEACHER = measured("teacher", "## Teacher\n\n| a |\n| --- |\n| 1 |\n\nText.\n", "commit 1")


def test_a_report_is_read_as_it_was_written():
    broken = failed("decode", "left with\ncode 1", "commit 2", None)
    report = write_report([TEACHER, broken])
    assert read_sections(report) == {"teacher": TEACHER, "decode": broken}
    later = failed("teacher", "ended with exit code 3", "commit 2", TEACHER)
    text = later.as_markdown()
    assert "> **Failed** `teacher`, commit 2: ended with exit code 3\n" in text
    assert text.endswith(TEACHER.text + "\n")  # what was measured before
    assert read_sections(write_report([later])) == {"teacher": later}


def test_what_is_not_run_again_stays_and_a_failure_ends_in_an_error(monkeypatch, tmp_path):
    report, old = tmp_path / "benchmarks.md", Section("bad", "## old text\n\n*commit 1*")
    report.write_text(write_report([old]))

    def fake_run(name, before):
        if name == "bad":
            return failed(name, "ended with exit code 1", "commit 2", before)
        return measured(name, f"## {name}", "commit 2")

    for name, value in {"REPORT": report, "QUESTIONS": ("good", "bad"), "run": fake_run}.items():
        monkeypatch.setattr(runner, name, value)
    monkeypatch.setattr("sys.argv", ["benchmarks", "good"])
    runner.main()
    assert read_sections(report.read_text())["bad"] == old
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    with pytest.raises(SystemExit, match="failed: bad"):
        runner.main()
    sections = read_sections(report.read_text())
    assert list(sections) == ["good", "bad"]
    assert sections["bad"].failure
    monkeypatch.setattr("sys.argv", ["benchmarks", "god"])
    with pytest.raises(SystemExit, match="2"):
        runner.main()


def test_every_benchmark_is_in_the_report():
    """A file with a ``main`` is a benchmark; the others are what benchmarks share."""
    trees = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("[!_]*.py")}
    found = {
        name
        for name, tree in trees.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    }
    assert found == {*runner.QUESTIONS, *runner.BY_HAND}
