"""A chain of steps over many blocks, on Ray's plain actors and tasks.

Ray Data spends some 20 ms of the driver's CPU on every block of a chain and remembers them all.
Here a block costs about one and is forgotten when it is done (docs/decisions/0016). The driver
passes references only: what a step returns goes straight to the actor of the next one.

A block that is lost with its actor or its node starts again from the first step. So a step may
write only under names that depend on the block alone.
"""

from __future__ import annotations

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


@dataclass(eq=False)
class _Block:
    table: pa.Table
    data: Any  # the table, or a reference to what the last step returned
    num_losses: int = 0


class _Crew:
    """The actors of a step, or its tasks, and the blocks that wait for them."""

    def __init__(self, step: Step, *, max_actors: int) -> None:
        import ray

        self.waiting: deque[_Block] = deque()
        self.num_calls: dict[Any, int] = {}  # of each actor that has started
        self.num_actors = min(step.num_actors or 0, max_actors)
        self.num_losses = 0
        self.step = step
        resources = ray.remote(num_cpus=step.num_cpus, num_gpus=step.num_gpus or 0)
        if step.num_actors is None:
            self._run: Any = resources(_run_task).options(num_returns=2)
        else:
            # A subclass by the same name, which the title of the actor's process shows.
            work: Any = step.work
            members = {"run": ray.method(num_returns=2)(_run)}
            self._class: Any = resources(type(work.__name__, (work,), members))

    def start_actor(self) -> tuple[Any, _Call]:
        actor = self._class.remote(*self.step.arguments)
        return actor.__ray_ready__.remote(), (self, actor, None)

    def start_calls(self) -> Iterator[tuple[Any, _Call]]:
        """Run the blocks that wait, as far as there are places for them."""
        while self.waiting:
            actor = min(self.num_calls, key=self.num_calls.__getitem__, default=None)
            if self.step.num_actors is None:
                ended, data = self._run.remote(self.step, self.waiting[0].data)
            elif actor is None or self.num_calls[actor] == CALLS_OF_AN_ACTOR:
                return
            else:
                self.num_calls[actor] += 1
                ended, data = actor.run.remote(self.waiting[0].data)
            block = self.waiting.popleft()
            block.data = data
            yield ended, (self, actor, block)

    def end_call(self, actor: Any, block: _Block | None) -> None:
        if block is None:
            self.num_calls[actor] = self.num_losses = 0
        elif actor in self.num_calls:
            self.num_calls[actor] -= 1

    def lose(self, actor: Any, block: _Block | None, error: Any) -> Iterator[tuple[Any, _Call]]:
        """Start another actor for one that is lost. An error that a step raised is raised."""
        import ray

        in_a_step = isinstance(error, ray.exceptions.RayTaskError)  # then the actor lives
        if in_a_step and not isinstance(error.cause, ray.exceptions.RayError):
            raise error
        lost = block or self
        # An actor runs its calls in order: the first that is found lost was running when it died.
        # The blocks behind it have no part in that.
        waited = block is not None and actor is not None and actor not in self.num_calls
        lost.num_losses += in_a_step or not waited
        if lost.num_losses == MAX_LOSSES:
            name = self.step.work.__name__
            raise ClusterUnavailable(f"{name} was lost {MAX_LOSSES} times: {error}") from error
        if block is not None:
            block.data = block.table
        if in_a_step:
            self.end_call(actor, block)
        elif self.num_calls.pop(actor, None) is not None or block is None:
            ray.kill(actor)  # it may only be out of reach
            yield self.start_actor()


# (crew, actor or None for a task, block); without a block the call is the start of an actor.
_Call = tuple[_Crew, Any, _Block | None]


def run_chain(blocks: Iterable[pa.Table], steps: Sequence[Step]) -> Generator[pa.Table]:
    """Yield each block's table as it leaves the last step, in any order.

    ``blocks`` are taken as places become free, so they may be made while they are taken.

    Raises:
        ClusterUnavailable: if a block or an actor is lost again and again, or nothing moves.
    """
    import ray

    source = (_Block(table, table) for table in blocks)
    limit = CALLS_OF_AN_ACTOR * sum(step.num_actors or 0 for step in steps)
    first = list(islice(source, limit))
    crews = [_Crew(step, max_actors=len(first)) for step in steps]
    crews[0].waiting.extend(first)
    num_blocks = len(first)
    calls: dict[Any, _Call] = dict(
        crew.start_actor() for crew in reversed(crews) for _ in range(crew.num_actors)
    )
    try:
        while num_blocks:
            for crew in reversed(crews):  # what is nearly done leaves memory first
                calls.update(crew.start_calls())
            for ended in _ended(list(calls)):
                crew, actor, block = calls.pop(ended)
                try:
                    ray.get(ended)
                    table = ray.get(block.data) if block and crew is crews[-1] else None
                except ray.exceptions.RayError as error:
                    calls.update(crew.lose(actor, block, error))
                    crews[0].waiting.extend([block] if block else [])
                    continue
                crew.end_call(actor, block)
                if table is not None:
                    yield table
                    num_blocks -= 1
                elif block is not None:
                    crews[crews.index(crew) + 1].waiting.append(block)
            more = list(islice(source, limit - num_blocks))
            crews[0].waiting.extend(more)
            num_blocks += len(more)
    finally:
        starting = [actor for _, actor, block in calls.values() if block is None]
        for actor in [*starting, *(actor for crew in crews for actor in crew.num_calls)]:
            ray.kill(actor)


def _ended(running: list[Any]) -> list[Any]:
    """Wait for a call to end; return all that have."""
    import ray

    if not ray.wait(running, timeout=NO_PROGRESS_SECONDS)[0]:
        raise ClusterUnavailable(
            f"none of {len(running)} calls has ended for {NO_PROGRESS_SECONDS} s.\n"
            "  Did nodes leave the cluster, or do other jobs hold its CPUs or GPUs?"
        )
    ended: list[Any] = ray.wait(running, num_returns=len(running), timeout=0)[0]
    return ended


def _run(actor: Any, block: pa.Table) -> tuple[None, pa.Table]:
    """Return nothing beside the table: the driver finds errors in it and fetches no data."""
    return None, actor(block)


def _run_task(step: Step, block: pa.Table) -> tuple[None, pa.Table]:
    return None, step.work(block, *step.arguments)
