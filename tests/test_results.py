"""Figures of docs/results.json stand in README and docs as they were measured, and nowhere else."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.study_page import filled

ROOT = Path(__file__).parents[1]
RESULTS = json.loads((ROOT / "docs/results.json").read_text())
STUDY = RESULTS.pop("study")
PANELS = STUDY.pop("panels")
STUDIES = RESULTS  # of README, one figure each
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "docs/results.md")}
PAGE = (ROOT / "docs/study.md").read_text()


def written(value: float, plus_minus: float | None) -> str:
    return f"{value:.1f}" if plus_minus is None else f"{value:.1f} ± {plus_minus:.1f}"


@pytest.mark.parametrize("study", [*STUDIES, *STUDY])
def test_every_figure_is_the_mean_of_its_seeds_and_stands_in_the_texts(study):
    results = STUDIES.get(study) or STUDY[study]
    texts = TEXTS if study in STUDIES else {"docs/study.md": PAGE}
    for row in results["rows"]:
        assert row["top1"] == pytest.approx(fmean(row["seeds"]), abs=0.051), row["name"]
        for name, text in texts.items():
            assert written(row["top1"], row.get("plus_minus")) in text, (row["name"], name)
    gain = results["gain"]
    assert all(written(gain["points"], gain["plus_minus"]) in text for text in texts.values())


def test_readme_has_no_other_interval():
    known = {
        written(row.get("top1", row.get("points")), row["plus_minus"])
        for study in STUDIES.values()
        for row in (*study["rows"], study["gain"])
        if "plus_minus" in row
    }
    assert set(re.findall(r"\d+\.\d ± \d+\.\d", TEXTS["README.md"])) <= known


def test_the_study_has_the_tables_of_its_results():
    assert filled(PAGE, PANELS) == PAGE
    for rows in PANELS.values():
        for row in rows:
            assert row["top1"] == pytest.approx(fmean(row["seeds"]), abs=0.101), row["arm"]
