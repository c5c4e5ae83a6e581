"""Ray Train's own record of a run, which it writes in place, and our copy of it."""

import json
from pathlib import Path

import pytest

from pipeline.errors import StoreCorrupt
from pipeline.stages.train import keep_snapshot, mend_snapshot
from pipeline.training.checkpoint import RunFiles

FIRST, SECOND = (
    json.dumps(
        {
            "checkpoint_results": [{"checkpoint_dir_name": name, "metrics": {"score": 0.25}}],
            "latest_checkpoint_result": {"checkpoint_dir_name": name},
            "current_report_index": number,
        }
    ).encode()
    for number, name in ((2, "epoch_0002"), (3, "epoch_0003"))
)


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


@pytest.mark.parametrize("place", range(len(SECOND)))
def test_a_bit_that_changed_is_found(snapshot: Path, place: int) -> None:
    for bit in range(8):
        reported(snapshot, SECOND)
        damaged = bytearray(SECOND)
        damaged[place] ^= 1 << bit
        snapshot.write_bytes(damaged)
        mend_snapshot(RunFiles(str(snapshot.parent)))
        assert snapshot.read_bytes() == SECOND


def test_a_copy_that_changed_is_found(snapshot: Path) -> None:
    reported(snapshot, FIRST)
    copy = Path(RunFiles(str(snapshot.parent)).snapshot_copy)
    copy.write_bytes(copy.read_bytes().replace(b"0.25", b"0.75"))
    with pytest.raises(StoreCorrupt, match=copy.name):
        mend_snapshot(RunFiles(str(snapshot.parent)))


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
