"""Streams of blocks through steps on pools of actors, and the plain tasks that gather whole files.

A block passes whole from step to step, so what a step computes of it does not depend on the number
of actors. One step runs on Ray Data. A chain runs on our own pool, which takes a twentieth of the
driver's CPU (docs/decisions/0016).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.stages.cluster import CPU_SHARE
from pipeline.stages.pool import NO_PROGRESS_SECONDS, run_chain

MAX_WARNINGS = 10  # of bad videos while a stage runs; all are listed at its end

Result = TypeVar("Result")


@dataclass(frozen=True)
class Step:
    """The work that is done on every block: by actors of a class, or by a function in tasks."""

    work: Callable[..., Any]  # a class whose instances map a table to a table, or such a function
    arguments: tuple[Any, ...] = ()  # of the constructor, or of the function after the table
    num_actors: int | Callable[[], int] | None = None  # None: ``work`` is a function
    num_cpus: float = CPU_SHARE
    num_gpus: int | None = None

    @property
    def size(self) -> int:
        """Actors that there should be now; 0 for a function."""
        return self.num_actors() if callable(self.num_actors) else self.num_actors or 0


def network_resources(config: ExperimentConfig) -> dict[str, Any]:
    """Return what an actor with a network takes of a machine: a GPU, or its share of a CPU."""
    return {"num_gpus": 1, "num_cpus": 0} if config.cluster.use_gpu else {"num_cpus": CPU_SHARE}


def stream(blocks: Iterable[pa.Table], *steps: Step) -> Generator[pa.Table]:
    """Yield each block's table as it leaves the last step, in any order."""
    return run_chain(blocks, steps) if len(steps) > 1 else _on_ray_data(blocks, *steps)


def _on_ray_data(blocks: Iterable[pa.Table], step: Step) -> Generator[pa.Table]:
    tables = list(blocks)
    if not tables:
        return
    import ray.data

    _configure()
    whole: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    size = min(step.size or 1, len(tables))  # more actors would start for nothing
    dataset: Any = ray.data.from_arrow(tables).map_batches(
        step.work,
        fn_constructor_args=step.arguments,
        compute=ray.data.ActorPoolStrategy(size=size),
        num_cpus=step.num_cpus,
        num_gpus=step.num_gpus,
        **whole,
    )
    yield from dataset.iter_batches(**whole)


def run_tasks(
    function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], **shared: Any
) -> list[Result]:
    """Call a function once for each tuple of arguments, a task each; return the results in order.

    ``shared`` are keyword arguments of all calls; Ray keeps one copy of them.
    """
    import ray

    task = ray.remote(num_cpus=CPU_SHARE)(function)
    copies = {name: ray.put(value) for name, value in shared.items()}
    results: list[Result] = ray.get([task.remote(*call, **copies) for call in calls])
    return results


def _configure() -> None:
    import ray.data
    from ray.util import log_once

    log_once("ray_data_progress_manager_disabled")  # or Ray warns that there are no bars
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # stages show their own
    context.target_max_block_size = None  # one block in stays one block out
    context.execution_no_progress_timeout_s = NO_PROGRESS_SECONDS
    context.raise_original_map_exception = True  # keeps our exception type, and so the exit code
