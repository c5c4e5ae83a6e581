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
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import ClusterUnavailable

if TYPE_CHECKING:
    from pipeline.stages.stream import Step

CALLS_OF_AN_ACTOR = 2  # one runs, the other has its input at hand
MAX_LOSSES = 3  # of one block; of one step's actors in a row, while they start
NO_PROGRESS_SECONDS = 600
RESIZE_SECONDS = 5.0  # between two looks at the cluster


@dataclass(eq=False)
class _Block:
    table: pa.Table
    data: Any  # the table, or a reference to what the last step returned
    num_losses: int = 0


@dataclass(eq=False)
class _Actor:
    handle: Any
    losses_before: int  # of its crew, when it was asked for
    node: str = ""  # where it runs; empty until it has started
    num_calls: int = 0


class _Crew:
    """The actors of a step, or its tasks, and the blocks that wait for them."""

    def __init__(self, step: Step) -> None:
        import ray

        self.waiting: deque[_Block] = deque()
        self.actors: list[_Actor] = []
        self.num_losses = 0
        self.step = step
        resources = ray.remote(num_cpus=step.num_cpus, num_gpus=step.num_gpus or 0)
        if step.num_actors is None:
            self._run: Any = resources(_run_task).options(num_returns=2)
        else:
            # A subclass by the same name, which the title of the actor's process shows.
            work: Any = step.work
            members = {"run": ray.method(num_returns=2)(_run), "node": _node}
            self._class: Any = resources(type(work.__name__, (work,), members))

    def resize(self, num_actors: int, nodes: set[str]) -> Iterator[tuple[Any, _Call]]:
        """Forget the actors of nodes that left, end idle ones that are too many, start the rest."""
        for actor in [actor for actor in self.actors if actor.node and actor.node not in nodes]:
            self.remove(actor)
        started = [actor for actor in self.actors if actor.node]
        idle = (actor for actor in started if not actor.num_calls)
        for actor in islice(idle, max(0, len(started) - num_actors)):
            self.remove(actor)
        for _ in range(num_actors - len(self.actors)):
            actor = _Actor(self._class.remote(*self.step.arguments), self.num_losses)
            self.actors.append(actor)
            yield actor.handle.node.remote(), (self, actor, None)

    def remove(self, actor: _Actor) -> None:
        import ray

        self.actors.remove(actor)
        ray.kill(actor.handle)  # a lost one may only be out of reach

    def start_calls(self) -> Iterator[tuple[Any, _Call]]:
        """Run the blocks that wait, as far as there are places for them."""
        started = [actor for actor in self.actors if actor.node]
        while self.waiting:
            actor = min(started, key=lambda actor: actor.num_calls, default=None)
            if self.step.num_actors is None:
                ended, data = self._run.remote(self.step, self.waiting[0].data)
            elif actor is None or actor.num_calls == CALLS_OF_AN_ACTOR:
                return
            else:
                actor.num_calls += 1
                ended, data = actor.handle.run.remote(self.waiting[0].data)
            block = self.waiting.popleft()
            block.data = data
            yield ended, (self, actor, block)

    def end_call(self, actor: _Actor | None, block: _Block | None, node: str | None) -> None:
        if actor is None:
            return
        if block is None:
            actor.node, self.num_losses = node or "", 0
        else:
            actor.num_calls -= 1

    def lose(self, actor: _Actor | None, block: _Block | None, error: Any) -> None:
        """Forget what is lost; ``resize`` replaces it. An error that a step raised is raised."""
        import ray

        in_a_step = isinstance(error, ray.exceptions.RayTaskError)  # then the actor lives
        if in_a_step and not isinstance(error.cause, ray.exceptions.RayError):
            raise error
        if block is not None:
            # An actor runs its calls in order: the first that is found lost was running when it
            # died. The blocks behind it have no part in that, nor has any if its node has left.
            block.num_losses += in_a_step or actor is None or actor in self.actors
            block.data = block.table
        elif actor is not None:  # those that started together may be lost together: that is one
            self.num_losses = max(self.num_losses, actor.losses_before + 1)
        if (block.num_losses if block else self.num_losses) == MAX_LOSSES:
            name = self.step.work.__name__
            raise ClusterUnavailable(f"{name} was lost {MAX_LOSSES} times: {error}") from error
        if in_a_step and actor is not None:
            actor.num_calls -= 1
        elif actor in self.actors:
            self.remove(actor)


# (crew, actor or None for a task, block); without a block the call is the start of an actor.
_Call = tuple[_Crew, _Actor | None, _Block | None]


def run_chain(blocks: Iterable[pa.Table], steps: Sequence[Step]) -> Generator[pa.Table]:
    """Yield each block's table as it leaves the last step, in any order.

    ``blocks`` are taken as places become free, so they may be made while they are taken.

    Raises:
        ClusterUnavailable: if a block or an actor is lost again and again, or nothing moves.
    """
    import ray

    source = (_Block(table, table) for table in blocks)
    crews = [_Crew(step) for step in steps]
    calls: dict[Any, _Call] = {}
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
                calls.update(_resized(crews, [min(size, num_blocks) for size in sizes]))
                resize_at = time.monotonic() + RESIZE_SECONDS
            for crew in reversed(crews):  # what is nearly done leaves memory first
                calls.update(crew.start_calls())
            for ended in _ended(list(calls), moved_at):
                crew, actor, block = calls.pop(ended)
                moved_at = time.monotonic()
                try:
                    node = ray.get(ended)
                    table = ray.get(block.data) if block and crew is crews[-1] else None
                except ray.exceptions.RayError as error:
                    crew.lose(actor, block, error)
                    crews[0].waiting.extend([block] if block else [])
                    resize_at = 0.0
                    continue
                crew.end_call(actor, block, node)
                if table is not None:
                    yield table
                    num_blocks -= 1
                elif block is not None:
                    crews[crews.index(crew) + 1].waiting.append(block)
    finally:
        for actor in (actor for crew in crews for actor in crew.actors):
            ray.kill(actor.handle)


def _resized(crews: Sequence[_Crew], sizes: Sequence[int]) -> Iterator[tuple[Any, _Call]]:
    """Bring each crew to its size; networks come first, so that decoders leave them room."""
    import ray

    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for crew, size in zip(reversed(crews), reversed(sizes), strict=True):
        yield from crew.resize(size, nodes)


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


def _node(actor: Any) -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _run(actor: Any, block: pa.Table) -> tuple[None, pa.Table]:
    """Return nothing beside the table: the driver finds errors in it and fetches no data."""
    return None, actor(block)


def _run_task(step: Step, block: pa.Table) -> tuple[None, pa.Table]:
    return None, step.work(block, *step.arguments)
