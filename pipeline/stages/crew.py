"""The actors of one step of a chain, which come and go, or the step's tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import ClusterUnavailable

if TYPE_CHECKING:
    from pipeline.stages.stream import Step

CALLS_OF_AN_ACTOR = 2  # one runs, the other has its input at hand
MAX_LOSSES = 3  # of one block; of one step's actors in a row, while they start


@dataclass(eq=False)
class Block:
    """A block on its way through the chain."""

    table: pa.Table
    data: Any  # the table, or a reference to what the last step returned
    num_losses: int = 0


@dataclass(eq=False)
class Actor:
    """An actor of a crew; it gets blocks once it is ready."""

    handle: Any
    ready: bool = False
    losses_before: int = 0  # of its crew, when it was asked whether it is ready
    num_calls: int = 0


class Crew:
    """The actors of a step, or its tasks, and the blocks that wait for them."""

    def __init__(self, step: Step) -> None:
        import ray

        self.waiting: deque[Block] = deque()
        self.actors: list[Actor] = []
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

    def resize(self, num_actors: int) -> Iterator[tuple[Any, Call]]:
        """Start the actors that are missing, and end idle ones that are too many."""
        ready = [actor for actor in self.actors if actor.ready]
        idle = (actor for actor in ready if not actor.num_calls)
        for actor in islice(idle, max(0, len(ready) - num_actors)):
            self.remove(actor)
        for _ in range(num_actors - len(self.actors)):
            self.actors.append(Actor(self._class.remote(*self.step.arguments)))
            yield self._ask(self.actors[-1])

    def ask_idle(self) -> Iterator[tuple[Any, Call]]:
        """Give idle actors no block until they answer: they may be lost with the same node."""
        return (self._ask(actor) for actor in self.actors if actor.ready and not actor.num_calls)

    def _ask(self, actor: Actor) -> tuple[Any, Call]:
        actor.ready, actor.losses_before = False, self.num_losses
        return actor.handle.__ray_ready__.remote(), (self, actor, None)

    def remove(self, actor: Actor) -> None:
        import ray

        self.actors.remove(actor)
        ray.kill(actor.handle)  # a lost one may only be out of reach

    def start_calls(self) -> Iterator[tuple[Any, Call]]:
        """Run the blocks that wait, as far as there are places for them."""
        ready = [actor for actor in self.actors if actor.ready]
        while self.waiting:
            actor = min(ready, key=lambda actor: actor.num_calls, default=None)
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

    def end_call(self, actor: Actor | None, block: Block | None) -> None:
        if actor is not None and block is None:
            actor.ready, self.num_losses = True, 0
        elif actor is not None:
            actor.num_calls -= 1

    def lose(self, actor: Actor | None, block: Block | None, error: Any) -> None:
        """Forget what is lost; ``resize`` replaces it. An error that a step raised is raised."""
        import ray

        in_a_step = isinstance(error, ray.exceptions.RayTaskError)  # then the actor lives
        if in_a_step and not isinstance(error.cause, ray.exceptions.RayError):
            raise error
        if block is not None:
            # An actor runs its calls in order: the first that is found lost was running when it
            # died. The blocks behind it have no part in that.
            block.num_losses += in_a_step or actor is None or actor in self.actors
            block.data = block.table
        elif actor is not None:  # those that were asked together may be lost together: that is one
            self.num_losses = max(self.num_losses, actor.losses_before + 1)
        if (block.num_losses if block else self.num_losses) == MAX_LOSSES:
            name = self.step.work.__name__
            raise ClusterUnavailable(f"{name} was lost {MAX_LOSSES} times: {error}") from error
        if in_a_step and actor is not None:
            actor.num_calls -= 1
        elif actor in self.actors:
            self.remove(actor)


# (crew, actor or None for a task, block); without a block the call is the start of an actor.
Call = tuple[Crew, Actor | None, Block | None]


def _run(actor: Any, block: pa.Table) -> tuple[None, pa.Table]:
    """Return nothing beside the table: the driver finds errors in it and fetches no data."""
    return None, actor(block)


def _run_task(step: Step, block: pa.Table) -> tuple[None, pa.Table]:
    return None, step.work(block, *step.arguments)
