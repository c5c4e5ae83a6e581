"""Put what ``benchmarks.study`` measured into docs/results.json, and its tables into docs/study.md.

    python -m benchmarks.study_page FOLDER     from FOLDER/students.jsonl
    python -m benchmarks.study_page            the tables anew, from docs/results.json

An interval of top-1 is over seeds and scenes; a difference is of equal seeds on equal videos.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.section import options
from benchmarks.study import ARMS, Arm, panels
from pipeline.results.intervals import Interval, seeds_interval, units_of
from pipeline.text_table import markdown_table

DOCS = Path(__file__).parent.parent / "docs"
RESULTS, PAGE = DOCS / "results.json", DOCS / "study.md"
# What the rows of a panel are compared with: an arm of this panel, or else of another.
REFERENCES = {
    "main": ("main", "labels, new views each epoch"),
    "views": ("main", "whole cache"),
    "targets": ("main", "whole cache"),
    "noise": ("main", "labels, new views each epoch"),
    "patience": ("patience", "labels, new views each epoch"),
    "mixing": ("views", "16 views"),
    "losses": ("main", "whole cache"),
    "weights": ("main", "whole cache"),
}
Note = Mapping[str, Any]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    arguments: argparse.Namespace = parser.parse_args()
    results = json.loads(RESULTS.read_text())
    if arguments.folder is not None:
        lines = (arguments.folder / "students.jsonl").read_text().splitlines()
        results["study"]["panels"] = summed_up([json.loads(line) for line in lines])
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), results["study"]["panels"]))


def summed_up(notes: Sequence[Note]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each panel: an arm's seeds, its means, its difference to the reference."""
    of_arm = defaultdict[tuple[str, str], dict[int, Note]](dict)
    for note in notes:
        of_arm[note["panel"], note["arm"]][note["seed"]] = note
    return {
        panel: [
            _row(arm, of_arm[panel, arm.name], of_arm.get(REFERENCES[panel], {}))
            for arm in ARMS
            if arm.panel == panel and (panel, arm.name) in of_arm
        ]
        for panel in panels()
    }


def _row(arm: Arm, of_seed: Mapping[int, Note], reference: Mapping[int, Note]) -> dict[str, Any]:
    notes = [of_seed[seed] for seed in sorted(of_seed)]
    units = units_of(notes[0]["groups"])
    both = sorted(of_seed.keys() & reference.keys())
    pairs = [(of_seed[seed]["answers"], reference[seed]["answers"]) for seed in both]
    answers = [np.array(note["answers"]["top1"], float) for note in notes]
    gains = [np.array(ours["top1"], float) - np.array(theirs["top1"]) for ours, theirs in pairs]
    same = reference is of_seed or not gains or not any(gain.any() for gain in gains)
    origins = {note["origin"] for note in notes}
    return {
        "arm": arm.name,
        "seeds": [round(100 * float(values.mean()), 1) for values in answers],
        **_interval("top1", seeds_interval(100 * np.array(answers), units)),
        "nll": round(fmean(note["metrics"]["val/nll"] for note in notes), 3),
        "ece": round(100 * fmean(note["metrics"]["val/ece"] for note in notes), 1),
        **({} if same else _interval("gain", seeds_interval(100 * np.array(gains), units))),
        "steps": notes[0]["steps"],
        "units": str(units),
        "origin": sorted(origins),
    }


def _interval(name: str, interval: Interval) -> dict[str, float]:
    assert interval.high is not None, "there are many scenes"
    width = interval.high - interval.mean
    return {name: round(interval.mean, 1), f"{name}_plus_minus": round(width, 1)}


def filled(page: str, of_panel: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Put the table of each panel between its marks."""
    for panel, rows in of_panel.items():
        before, mark, rest = page.partition(f"<!-- {panel} -->\n")
        assert mark, f"docs/study.md has no place for {panel}"
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{mark}{_table(rows)}\n{end}{after}"
    return page


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("", "seeds", "top-1", "NLL", "ECE", "difference")
    cells = [
        (
            row["arm"],
            str(len(row["seeds"])),
            f"{row['top1']:.1f} ± {row['top1_plus_minus']:.1f}",
            f"{row['nll']:.2f}",
            f"{row['ece']:.1f}",
            f"{row['gain']:+.1f} ± {row['gain_plus_minus']:.1f}" if "gain" in row else "-",
        )
        for row in rows
    ]
    return markdown_table(header, cells, align="<>")


if __name__ == "__main__":
    main()
