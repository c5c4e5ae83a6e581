"""Chains of steps on actors: every block once, whatever dies, and no more than a few at a time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ClusterUnavailable
from pipeline.stages.stream import Step, stream
from tests.stages.pool_steps import Adder, Doubler, ended, squared

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NUM_BLOCKS = 30


def run(folder: Path, taken: list[int] | None = None) -> list[int]:
    """Return the numbers that a chain of three steps gives; note in ``taken`` what went in."""

    def blocks() -> Iterator[pa.Table]:
        for number in range(NUM_BLOCKS):
            if taken is not None:
                taken.append(number)
            yield pa.table({"number": [number]})

    steps = Step(Doubler, (str(folder),), 2, 0.25), Step(Adder, (), 1, 0.25), Step(squared, (3,))
    return [table["number"][0].as_py() for table in stream(blocks(), *steps)]


EXPECTED = [(2 * number + 1) ** 2 + 3 for number in range(NUM_BLOCKS)]


@pytest.mark.usefixtures("private_ray")
def test_every_block_goes_through_all_steps(tmp_path: Path) -> None:
    assert sorted(run(tmp_path)) == EXPECTED


@pytest.mark.usefixtures("private_ray")
def test_blocks_are_made_as_places_become_free(tmp_path: Path) -> None:
    taken: list[int] = []
    (tmp_path / "raises-0").touch()
    with pytest.raises(LookupError):
        run(tmp_path, taken)
    assert len(taken) < NUM_BLOCKS / 2


@pytest.mark.usefixtures("private_ray")
def test_a_dead_actor_is_replaced_and_its_block_runs_again(tmp_path: Path) -> None:
    for number in (0, 7, 8, NUM_BLOCKS - 1):
        (tmp_path / f"dies-{number}").write_bytes(b".")
    assert sorted(run(tmp_path)) == EXPECTED


@pytest.mark.usefixtures("private_ray")
def test_a_block_that_ends_every_process_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "dies-5").write_bytes(b"." * 100)
    with pytest.raises(ClusterUnavailable, match="Doubler was lost 3 times"):
        run(tmp_path)


@pytest.mark.usefixtures("private_ray")
def test_a_block_that_ends_every_task_is_given_up() -> None:
    blocks = (pa.table({"number": [number]}) for number in range(3))
    with pytest.raises(ClusterUnavailable, match="ended was lost 3 times"):
        list(stream(blocks, Step(Adder, (), 1, 0.25), Step(ended)))


@pytest.mark.usefixtures("private_ray")
def test_what_a_step_raises_is_raised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "raises-4").touch()
    with pytest.raises(LookupError, match="block 4"):
        run(tmp_path)
