"""The cost of a unit for the driver of stage one: CPU time and memory.

    python -m benchmarks.driver

Runs the three steps of the stage with actors that do nothing, on our pool and on Ray Data. A block
has 64 rows, as a unit has.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import psutil
import pyarrow as pa

from benchmarks.section import print_section, say

SIZES = {"pool": (1_000, 10_000, 100_000), "Ray Data": (1_000,)}  # eight minutes in all
MIB = 2.0**20
RECORDS = {"sample_id": ["class/a_video_of_that_class"] * 64, "row": list(range(64))}
Engine = Callable[[Iterable[pa.Table]], Iterator[pa.Table]]


class Decoder:
    """Stands for ``UnitDecoder``."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return block


class Teacher(Decoder):
    """Stands for ``TeacherActor``."""


def journal(block: pa.Table) -> pa.Table:
    return block.slice(0, 1)


def on_pool(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    from pipeline.stages.stream import Step, stream

    return stream(blocks, Step(Decoder, (), 1), Step(Teacher, (), 1), Step(journal, num_cpus=0.25))


def on_ray_data(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None
    whole = {"batch_size": None, "batch_format": "pyarrow"}
    dataset = ray.data.from_arrow(list(blocks))
    pool = ray.data.ActorPoolStrategy(size=1)
    for step in (Decoder, Teacher):
        dataset = dataset.map_batches(step, compute=pool, num_cpus=0.5, **whole)
    return iter(dataset.map_batches(journal, num_cpus=0.25, **whole).iter_batches(**whole))


def measure(engine: Engine, num_units: int) -> Sequence[object]:
    """Return seconds to the first unit, units a second, CPU ms a unit, MiB at half and end."""
    unit = pa.table(RECORDS)
    driver = psutil.Process()
    started, memory = time.monotonic(), []
    for number, _ in enumerate(engine(unit for _ in range(num_units))):
        if number == 0:
            first, cpu = time.monotonic(), _cpu_seconds()
        if number + 1 in (num_units // 2, num_units):
            memory.append(driver.memory_full_info().uss / MIB)
    rate = (num_units - 1) / (time.monotonic() - first)
    return first - started, rate, 1e3 * (_cpu_seconds() - cpu) / (num_units - 1), *memory


def main() -> None:
    import ray

    rows = []
    for name, engine in (("pool", on_pool), ("Ray Data", on_ray_data)):
        for num_units in SIZES[name]:
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
            say(f"{name}: {num_units} units")
            rows.append([name, f"{num_units:,}", *measure(engine, num_units)])
            ray.shutdown()
    print_section(
        "What a unit costs the driver of stage one",
        (
            "on",
            "units",
            "first after s",
            "units/s",
            "driver ms a unit",
            "MiB at half",
            "at the end",
        ),
        rows,
        "Actors that do nothing, one decoder and one teacher, 64 rows a unit, two logical CPUs. "
        "MiB are the driver's own (USS); Ray is started anew for each row.",
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
