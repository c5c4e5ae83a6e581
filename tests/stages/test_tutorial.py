"""The tutorial, word for word: every command runs, and prints what stands below it."""

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ALIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Command:
    """A block of commands, and the block of text below it, if there is one."""

    language: str
    code: str
    line: int
    expected: str | None = None


def read_commands(page: Path) -> list[Command]:
    """Return a page's blocks in order."""
    text = page.read_text()
    commands: list[Command] = []
    for block in BLOCK.finditer(text):
        language, code = block.groups()
        if language == "text":
            commands[-1].expected = code
        else:
            commands.append(Command(language, code, text.count("\n", 0, block.start()) + 1))
    return commands


def run(command: Command, environment: dict[str, str]) -> str:
    """Run a block as a reader would, in the checkout; return all that is printed."""
    if command.language == "python":
        words = [sys.executable, "-c", command.code]
    else:
        words = ["bash", "-euo", "pipefail", "-c", command.code]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"line {command.line}: {command.code}\n{done.stdout}"
    return done.stdout


def test_every_command_prints_what_the_page_says(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "HOME": str(tmp_path),
        # What activating does, which a checkout of another place has in another folder.
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    first, *commands = read_commands(ROOT / "docs" / "tutorial.md")
    assert first.code == "source .venv/bin/activate\n"
    same, different = doctest.OutputChecker(), []
    for command in commands:
        printed = run(command, environment)
        if command.expected is not None and not same.check_output(command.expected, printed, ALIKE):
            different.append(
                f"line {command.line}: the page says\n{command.expected}it is\n{printed}"
            )
    assert not different, "\n".join(different)
    assert sum(command.expected is not None for command in commands) > 10
