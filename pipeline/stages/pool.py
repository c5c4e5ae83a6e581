"""A chain of steps over many blocks, on Ray's plain actors and tasks.

Ray Data spends some 20 ms of the driver's CPU on every block of a chain and remembers them all.
Here a block costs about one and is forgotten when it is done (docs/decisions/0016). The driver
passes references only: what a step returns goes straight to the actor of the next one.

A block that is lost with its actor or its node starts again from the first step. So a step may
write only under names that depend on the block alone. Pools are sized anew every few seconds:
they take nodes that join, and do without those that leave (docs/decisions/0019).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import ClusterUnavailable
from pipeline.stages.crew import CALLS_OF_AN_ACTOR, Block, Call, Crew

if TYPE_CHECKING:
    from pipeline.stages.stream import Step

NO_PROGRESS_SECONDS = 600
RESIZE_SECONDS = 5.0  # between two looks at the cluster


def run_chain(blocks: Iterable[pa.Table], steps: Sequence[Step]) -> Generator[pa.Table]:
    """Yield each block's table as it leaves the last step, in any order.

    ``blocks`` are taken as places become free, so they may be made while they are taken.

    Raises:
        ClusterUnavailable: if a block or an actor is lost again and again, or nothing moves.
    """
    import ray

    source = (Block(table, table) for table in blocks)
    crews = [Crew(step) for step in steps]
    calls: dict[Any, Call] = {}
    num_blocks, resize_at, moved_at = 0, 0.0, time.monotonic()
    try:
        while True:
            sizes = [step.size for step in steps]
            more = list(islice(source, max(0, CALLS_OF_AN_ACTOR * sum(sizes) - num_blocks)))
            crews[0].waiting.extend(more)
            num_blocks += len(more)
            if not num_blocks:
                return
            if time.monotonic() >= resize_at:
                for crew, size in reversed([*zip(crews, sizes, strict=True)]):
                    calls.update(crew.resize(min(size, num_blocks)))
                resize_at = time.monotonic() + RESIZE_SECONDS
            for crew in reversed(crews):  # what is nearly done leaves memory first
                calls.update(crew.start_calls())
            for ended in _ended(list(calls), moved_at):
                crew, actor, block = calls.pop(ended)
                moved_at = time.monotonic()
                try:
                    ray.get(ended)
                    table = ray.get(block.data) if block and crew is crews[-1] else None
                except ray.exceptions.RayError as error:
                    crew.lose(actor, block, error)
                    crews[0].waiting.extend([block] if block else [])
                    for others in crews:
                        calls.update(others.ask_idle())
                    resize_at = 0.0
                    continue
                crew.end_call(actor, block)
                if table is not None:
                    yield table
                    num_blocks, moved_at = num_blocks - 1, time.monotonic()
                elif block is not None:
                    crews[crews.index(crew) + 1].waiting.append(block)
    finally:
        for actor in (actor for crew in crews for actor in crew.actors):
            ray.kill(actor.handle)


def _ended(running: list[Any], moved_at: float) -> list[Any]:
    """Return the calls that have ended; wait for one until the pools are sized anew."""
    import ray

    if not ray.wait(running, timeout=RESIZE_SECONDS)[0]:
        if time.monotonic() - moved_at < NO_PROGRESS_SECONDS:
            return []
        raise ClusterUnavailable(
            f"none of {len(running)} calls has ended for {NO_PROGRESS_SECONDS} s.\n"
            "  Did nodes leave the cluster, or do other jobs hold its CPUs or GPUs?"
        )
    ended: list[Any] = ray.wait(running, num_returns=len(running), timeout=0)[0]
    return ended
