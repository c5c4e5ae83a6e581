"""Run the benchmarks, one after the other, and write docs/benchmarks.md.

    make bench                               all of them
    make bench BENCH='teacher student_step'  some; the others keep what an earlier run measured

Each is a process of its own, so that memory and imports of one do not weigh on another. One that
fails is named in the report and in the exit code; the others still run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.hardware import describe
from benchmarks.report import Section, failed, measured, read_sections, write_report

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "docs" / "benchmarks.md"
# In the order of the report. A benchmark answers one question, and prints its section.
QUESTIONS = (
    "decode",
    "prepared_frames",
    "teacher",
    "student_step",
    "stage_one",
    "stage_memory",
    "driver",
    "manifest",
    "host_path",
    "mixing",
    "epoch_rate",
    "sweep_cost",
    "run_model",
)
BY_HAND = ("few_labels", "jpeg_quality", "study", "study_page")  # ask for an experiment or hours


def main() -> None:
    arguments = parse()
    chosen = arguments.questions or QUESTIONS
    sections = read_sections(REPORT.read_text()) if REPORT.exists() else {}
    failures = []
    for name in chosen:
        print(f"==> {name}", file=sys.stderr, flush=True)
        sections[name] = run(name, sections.get(name))
        failures += [name] if sections[name].failure else []
        # After each, so that a run that is cut short keeps what it measured.
        REPORT.write_text(write_report(sections[known] for known in QUESTIONS if known in sections))
    print(f"written: {REPORT}", file=sys.stderr)
    if failures:
        sys.exit(f"failed: {', '.join(failures)}")


def run(name: str, before: Section | None) -> Section:
    """Run one benchmark; its progress goes to stderr, as it comes."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return failed(name, f"ended with exit code {done.returncode}", origin(), before)
    if not done.stdout.startswith("## "):
        return failed(name, "printed no section", origin(), before)
    return measured(name, done.stdout, f"{origin()}, {describe()}")


def origin() -> str:
    """Return day and commit, and whether the tree differs from it."""
    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    suffix = " with changes" if changed else ""
    return f"{datetime.now(UTC):%-d %B %Y}, commit {commit}{suffix}"


def git(*words: str) -> str:
    return subprocess.check_output(["git", *words], cwd=ROOT, text=True).strip()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.questions) - set(QUESTIONS))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; choose of {', '.join(QUESTIONS)}")
    return arguments


if __name__ == "__main__":
    main()
