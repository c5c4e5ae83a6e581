"""The report docs/benchmarks.md: one section a benchmark, each with the run that it is from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

_MARK = re.compile(r"^<!-- (\w+) -->\n", re.MULTILINE)
_FAILURE = re.compile(r"^> \*\*Failed\*\*.*\n\n?", re.MULTILINE)

PREFACE = """\
# Benchmarks

Written by `make bench`; `make bench BENCH=teacher` runs one alone and leaves the others as they
are. Ratios are taken within one run. Absolute times are of the machine that each section names.
What whole runs gave is in [results.md](results.md).
"""


@dataclass(frozen=True)
class Section:
    name: str
    text: str  # Markdown, empty if it never ran to its end
    failure: str = ""  # one line, of the last run

    def as_markdown(self) -> str:
        parts = [f"> **Failed** {self.failure}"] if self.failure else []
        parts += [self.text] if self.text else []
        return f"<!-- {self.name} -->\n" + "\n\n".join(parts) + "\n"


def measured(name: str, output: str, origin: str) -> Section:
    """Return the section of a benchmark that ran, with a line that says where and when."""
    return Section(name, f"{output.strip()}\n\n*{origin}*")


def failed(name: str, failure: str, origin: str, before: Section | None) -> Section:
    """Return the section of a benchmark that did not: a line, and what an earlier run measured."""
    section = before or Section(name, "")
    return replace(section, failure=f"`{name}`, {origin}: {' '.join(failure.split())}")


def read_sections(report: str) -> dict[str, Section]:
    """Find the sections of a report that ``write_report`` wrote."""
    _, *parts = _MARK.split(report)
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: _read_section(name, text) for name, text in pairs}


def write_report(sections: Iterable[Section]) -> str:
    return "\n".join([PREFACE, *(section.as_markdown() for section in sections)])


def _read_section(name: str, text: str) -> Section:
    failure = _FAILURE.match(text)
    said = failure[0].removeprefix("> **Failed** ").strip() if failure else ""
    return Section(name, _FAILURE.sub("", text, count=1).strip(), said)
