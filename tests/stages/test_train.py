"""Ray Train's own record of a run, which it writes in place, and our copy of it."""

from pathlib import Path

import pytest

from pipeline.stages.train import keep_snapshot, mend_snapshot
from pipeline.training.checkpoint import RunFiles

FIRST, SECOND = b'{"report": 1}', b'{"report": 2}'


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return Path(RunFiles(str(tmp_path)).snapshot)


def reported(snapshot: Path, content: bytes) -> None:
    snapshot.write_bytes(content)
    keep_snapshot(RunFiles(str(snapshot.parent)))


@pytest.mark.parametrize("left", range(len(SECOND)))
def test_half_a_snapshot_gives_way_to_the_one_before(snapshot: Path, left: int) -> None:
    reported(snapshot, FIRST)
    snapshot.write_bytes(SECOND[:left])
    mend_snapshot(RunFiles(str(snapshot.parent)))
    assert snapshot.read_bytes() == FIRST


def test_half_of_the_first_snapshot_is_no_report(snapshot: Path) -> None:
    snapshot.write_bytes(FIRST[:3])
    mend_snapshot(RunFiles(str(snapshot.parent)))
    assert not snapshot.exists()


def test_a_whole_snapshot_stays_and_is_copied_if_it_was_not(snapshot: Path) -> None:
    reported(snapshot, FIRST)
    snapshot.write_bytes(SECOND)  # and killed before the copy
    mend_snapshot(RunFiles(str(snapshot.parent)))
    assert snapshot.read_bytes() == SECOND
    snapshot.write_bytes(b"")
    mend_snapshot(RunFiles(str(snapshot.parent)))
    assert snapshot.read_bytes() == SECOND


def test_a_new_run_has_none(tmp_path: Path) -> None:
    mend_snapshot(RunFiles(str(tmp_path / "none")))
    assert not list(tmp_path.iterdir())
