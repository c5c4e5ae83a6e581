"""docs/python.md: its blocks run, in order, and use public names alone."""

import re
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.errors import Status
from tests.logits.imaginary import EXAMPLE
from tests.untrained_student import write_student

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(dataset, make_video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_student(dataset.config(folder), folder / "student.safetensors", ("A", "B", "C"), seed=0)
    make_video(folder / "video.mp4", 25)
    EXAMPLE.write_store(str(folder / "artefacts" / "store"))
    return folder


def test_the_blocks_of_the_page_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    here = {}
    for block in BLOCKS:
        exec(block, here)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("[('")
    assert "0.00 s" in printed[1]
    used = re.findall(r"from pipeline import (.*)", PAGE)
    assert set(used) <= set(pipeline.__all__)


def test_a_store_as_a_table_and_with_named_axes(folder):
    store = pipeline.open_store(str(folder / "artefacts" / "store"))
    grid, frame = store.read_all(), store.to_pandas()
    good = grid.status == Status.GOOD
    assert len(frame) == good.sum()
    assert np.array_equal(frame.to_numpy(), grid.logits[good])
    assert tuple(frame.columns) == store.spec.class_names
    row, slot = np.argwhere(good)[-1]
    key = grid.sample_id[row], grid.label[row], store.spec.view_indices[slot]
    assert np.array_equal(frame.loc[key], grid.logits[row, slot])
    named = store.to_xarray().sel(sample_id=key[0], view_index=key[2])
    assert np.array_equal(named.logits, grid.logits[row, slot])
    assert (int(named.label), int(named.status)) == (key[1], Status.GOOD)
