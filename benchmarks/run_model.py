"""The forecast of jobs/plan_run.py: predicted and measured clips/s of stage one.

    python -m benchmarks.run_model

On this machine real decoders run, with one teacher actor and with two. On two and four simulated
nodes (Ray's own processes for each, on this machine) the actors sleep for as long as the work would
take, which tests that the stage keeps all nodes busy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from benchmarks.section import print_section
from benchmarks.small_experiment import build_experiment
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import Status
from pipeline.logits.spec import StoreSpec
from pipeline.results.forecast import ClusterShape, UnitCosts, stage_one_rate
from pipeline.stages.cache import CachePlan, plan_cache, unit_blocks, unit_steps
from pipeline.stages.cache_steps import CARRIED, FACTS_SCHEMA, pixels_added
from pipeline.stages.cluster import LOCAL, ray_session, required_cpus
from pipeline.stages.forecast import measure_costs
from pipeline.stages.stream import Step, stream
from pipeline.storage.files import join_uri
from pipeline.storage.sealed.store import fragment_name, open_for_writing

SMALL = (
    "dataset.generated.num_groups=7",
    "dataset.generated.num_val_groups=1",
    "teacher.embed_dim=64",
    "clip.side=64",
    "views.num_views=8",
    "store.clips_per_unit=16",
)
SLEEPING = UnitCosts(
    decode_seconds=0.05,
    teacher_seconds=0.15,
    journal_seconds=0.001,
    student_decode_seconds=0.02,
    student_step_seconds=0.02,
)
DECODERS_PER_NODE, TEACHERS_PER_NODE = 1, 2


class SleepingDecoder:
    """Stands in for ``UnitDecoder``: sleeps as long as decoding takes, and returns black clips."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._config = config

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = [
            {
                "unit": place["unit"],
                "row": place["row"],
                "view_index": view_index,
                "label": place["label"],
                "status": int(Status.GOOD),
                "view_digest": 1,
            }
            for place in block.select(["unit", "row", "label", "view_indices"]).to_pylist()
            for view_index in place["view_indices"]
        ]
        time.sleep(SLEEPING.decode_seconds * len(rows))
        facts = pa.Table.from_pylist(rows, schema=FACTS_SCHEMA)
        return pixels_added(facts, [None] * len(rows), self._config)


class SleepingTeacher:
    def __init__(self, config: ExperimentConfig, spec: StoreSpec) -> None:
        self._num_classes = spec.num_classes

    def __call__(self, block: pa.Table) -> pa.Table:
        seconds = SLEEPING.teacher_seconds
        time.sleep(seconds * block.num_rows)
        logits = np.tile(np.arange(self._num_classes, dtype=np.float32), block.num_rows)
        columns = {name: block.column(name) for name in (*CARRIED, "status", "reason")}
        return pa.table(
            columns
            | {
                "logits": pa.FixedSizeListArray.from_arrays(logits, self._num_classes),
                "teacher_seconds": pa.array([seconds] * block.num_rows),
            }
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = build_experiment(folder, *SMALL)
        rows = [*on_this_machine(config, folder), *on_simulated_nodes(config, folder)]
    print_section(
        "The forecast of stage one",
        ("where", "decoders", "teachers", "predicted clips/s", "bound", "measured", "off by"),
        rows,
        "Measured: the slope of finished clips over time. The costs of this machine are CPU time, "
        "measured just before, so the forecast is for a machine that does nothing else, and load "
        f"{os.getloadavg()[0]:.0f} is what there was. Simulated nodes sleep "
        f"{1000 * SLEEPING.decode_seconds:.0f} ms for a clip's decoding and "
        f"{1000 * SLEEPING.teacher_seconds:.0f} ms for its teacher.",
    )


def on_this_machine(config: ExperimentConfig, folder: str) -> Iterator[list[object]]:
    for teachers in (1, 2):
        own = with_actors(config, f"{folder}/real{teachers}", 1, teachers)
        plan = plan_cache(own)
        costs = measure_costs(own, plan.manifest, plan.spec)
        shape = ClusterShape(1, os.cpu_count() or 1, 0, max_decoders=1, max_devices=teachers)
        with ray_session(own, LOCAL, num_cpus=required_cpus(1, teachers)):
            steps = unit_steps(plan, inheriting=False)
            yield compare("this machine", plan, steps, costs, shape)


def on_simulated_nodes(config: ExperimentConfig, folder: str) -> Iterator[list[object]]:
    for nodes in (2, 4):
        decoders, teachers = nodes * DECODERS_PER_NODE, nodes * TEACHERS_PER_NODE
        # The second half, which is measured, must begin after the last actor is there.
        views = config.views.model_copy(update={"num_views": 12 * nodes})
        more = config.model_copy(update={"views": views})
        own = with_actors(more, f"{folder}/nodes{nodes}", decoders, teachers)
        shape = ClusterShape(
            nodes,
            DECODERS_PER_NODE + TEACHERS_PER_NODE,  # sleeping takes no core: one for each actor
            0,
            max_decoders=decoders,
            max_devices=teachers,
        )
        plan = plan_cache(own)
        decode, teach, journal = unit_steps(plan, inheriting=False)
        steps = (
            replace(decode, work=SleepingDecoder),
            replace(teach, work=SleepingTeacher),
            journal,
        )
        with simulated_cluster(nodes):
            yield compare(f"{nodes} simulated nodes", plan, steps, SLEEPING, shape)


def with_actors(
    config: ExperimentConfig, store: str, decoders: int, teachers: int
) -> ExperimentConfig:
    cluster = {"num_decoders": decoders, "num_teachers": teachers}
    return config.model_copy(
        update={
            "store": config.store.model_copy(update={"uri": store}),
            "cluster": config.cluster.model_copy(update=cluster),
        }
    )


@contextlib.contextmanager
def simulated_cluster(nodes: int) -> Iterator[None]:
    """Start a raylet for each node; each has room for its actors and for tasks."""
    import ray
    from ray.cluster_utils import Cluster

    num_cpus = required_cpus(DECODERS_PER_NODE, TEACHERS_PER_NODE)
    node = {"num_cpus": int(np.ceil(num_cpus)), "object_store_memory": 100_000_000}
    # A folder of its own, or this cluster becomes the one that others on this machine find.
    folder = tempfile.mkdtemp(prefix="ray-")
    cluster = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": folder})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, logging_level="WARNING", log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)  # its processes may still write their last lines


def compare(
    where: str, plan: CachePlan, steps: Sequence[Step], costs: UnitCosts, shape: ClusterShape
) -> list[object]:
    predicted, measured = stage_one_rate(costs, shape), measured_rate(plan, steps)
    row = [
        where,
        shape.max_decoders,
        shape.max_devices,
        predicted.clips_per_second,
        predicted.bottleneck,
        measured,
        f"{predicted.clips_per_second / measured - 1:+.0%}",
    ]
    print(f"{costs}\n{row}", file=sys.stderr, flush=True)
    return row


def measured_rate(plan: CachePlan, steps: Sequence[Step]) -> float:
    """Run every unit through the steps; return clips/s once all actors are there.

    That is the slope of journalled clips over time in the second half, by the times of the files:
    the driver hears of them later and in groups. A line through many units is less disturbed by
    units that finish together than a difference of the first and the last would be.
    """
    open_for_writing(plan.root, plan.spec)
    for _ in stream(unit_blocks(plan, plan.units, {}), *steps):
        pass
    finished = sorted(
        (os.stat(join_uri(plan.root, fragment_name(unit.number))).st_mtime, len(unit.coordinates))
        for unit in plan.units
    )
    seconds, num_clips = np.array(finished).T
    late = slice(len(finished) // 2, None)
    slope, _ = np.polyfit(seconds[late] - seconds[-1], np.cumsum(num_clips)[late], deg=1)
    return float(slope)


if __name__ == "__main__":
    main()
