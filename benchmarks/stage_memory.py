"""The memory of stage one over a long run, which should be flat.

    python -m benchmarks.stage_memory

The stage runs for some minutes on tiny clips, which is as many blocks as many hours of large ones.
Meanwhile the memory of this process and of all that it started is read. It is the memory that each
has for itself (USS), so the object store, which they share and whose size is fixed, is left out.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psutil

from benchmarks.section import print_section, say
from benchmarks.small_experiment import build_experiment
from pipeline.stages.cache import CachePlan, plan_cache, unit_blocks, unit_steps
from pipeline.stages.cluster import LOCAL, ray_session, required_cpus
from pipeline.stages.stream import stream
from pipeline.storage.sealed.store import open_for_writing

LONG = ("views.num_views=256", "teacher.embed_dim=8")
SECONDS_BETWEEN = 5.0
QUARTERS = 4
MIB = 2.0**20
Look = tuple[float, Counter[str]]  # when, and MiB by part


@contextmanager
def watching() -> Iterator[list[Look]]:
    """Look every few seconds at what the processes have; the list grows meanwhile."""
    looks: list[Look] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN):
            looks.append((time.monotonic(), memory_by_part()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = build_experiment(folder, *LONG)
        plan = plan_cache(config)
        num_cpus = required_cpus(config.cluster.num_decoders, config.cluster.num_teachers)
        say(f"{plan.num_clips} clips in {len(plan.units)} units")
        with ray_session(config, LOCAL, num_cpus=num_cpus), watching() as looks:
            seconds = run(plan)
    print_section(
        "The memory of stage one over a long run",
        ("MiB", *(f"quarter {number + 1}" for number in range(QUARTERS)), "growth an hour"),
        rows(looks),
        f"{plan.num_clips:,} clips in {len(plan.units):,} units, {seconds:.0f} s. Quarters of the "
        "time that the teacher was there, means; the growth is a line through the second half.",
    )


def run(plan: CachePlan) -> float:
    open_for_writing(plan.root, plan.spec)
    started = time.monotonic()
    for _ in stream(unit_blocks(plan, plan.units, {}), *unit_steps(plan, inheriting=False)):
        pass
    return time.monotonic() - started


def memory_by_part() -> Counter[str]:
    """Return MiB of this process and of those that it started, by what they do."""
    mine, found = psutil.Process(), Counter[str]()
    for process in (mine, *mine.children(recursive=True)):
        try:
            part = "driver" if process == mine else part_of(" ".join(process.cmdline()))
            found[part] += process.memory_full_info().uss / MIB
        except psutil.NoSuchProcess:
            continue  # Ray ends workers that it has no use for
    return found


def part_of(command: str) -> str:
    if "ray::" not in command:
        return "decoding process" if "pipeline.views.decoder" in command else "Ray's own"
    for actor in ("UnitDecoder", "TeacherActor"):
        if actor in command:
            return actor
    return "tasks, idle workers"


def rows(looks: list[Look]) -> Iterator[list[object]]:
    seconds, found = zip(*(look for look in looks if "TeacherActor" in look[1]), strict=True)
    half = len(seconds) // 2
    parts = sorted({part for parts in found for part in parts})
    by_part = {part: [parts[part] for parts in found] for part in parts}
    by_part["all"] = [sum(parts.values()) for parts in found]
    for part, values in by_part.items():
        slope, _ = np.polyfit(seconds[half:], values[half:], deg=1)
        means = (float(quarter.mean()) for quarter in np.array_split(values, QUARTERS))
        yield [part, *means, f"{3600 * slope:+,.0f}"]


if __name__ == "__main__":
    main()
