"""Figures of docs/results.json stand in README and docs as they were measured, and nowhere else."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.study_page import filled

ROOT = Path(__file__).parents[1]
RESULTS = json.loads((ROOT / "docs/results.json").read_text())
PANELS = RESULTS.pop("study")["panels"]
STUDIES = RESULTS  # of README, one figure each
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "docs/results.md")}


def written(value: float, plus_minus: float | None) -> str:
    return f"{value:.1f}" if plus_minus is None else f"{value:.1f} ± {plus_minus:.1f}"


@pytest.mark.parametrize("study", STUDIES)
def test_every_figure_is_the_mean_of_its_seeds_and_stands_in_both_texts(study):
    for row in STUDIES[study]["rows"]:
        assert row["top1"] == pytest.approx(fmean(row["seeds"]), abs=0.051), row["name"]
        for name, text in TEXTS.items():
            assert written(row["top1"], row.get("plus_minus")) in text, (row["name"], name)
    gain = STUDIES[study]["gain"]
    assert all(written(gain["points"], gain["plus_minus"]) in text for text in TEXTS.values())


def test_readme_has_no_other_interval():
    known = {
        written(row.get("top1", row.get("points")), row["plus_minus"])
        for study in STUDIES.values()
        for row in (*study["rows"], study["gain"])
        if "plus_minus" in row
    }
    assert set(re.findall(r"\d+\.\d ± \d+\.\d", TEXTS["README.md"])) <= known


def test_the_study_has_the_tables_of_its_results():
    page = (ROOT / "docs/study.md").read_text()
    assert filled(page, PANELS) == page
    for rows in PANELS.values():
        for row in rows:
            assert row["top1"] == pytest.approx(fmean(row["seeds"]), abs=0.101), row["arm"]
