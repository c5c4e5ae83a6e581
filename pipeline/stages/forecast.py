"""The forecast of an experiment: its manifest counted, its unit costs measured here or elsewhere.

To measure, the stage's own actors do a few units, one after the other in this process, and the
student takes a few steps. On CPU that is CPU time, so that a busy machine gives the same costs as a
quiet one. Nothing is kept: fragments go to a folder that is deleted.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError
from pipeline.frames.source import read_source
from pipeline.logits.spec import StoreSpec, Unit, plan_store, plan_units
from pipeline.networks.build import build_network
from pipeline.networks.recipe import Recipe, student_recipe
from pipeline.networks.teacher import teacher_digest
from pipeline.results.forecast import ClusterShape, RunForecast, UnitCosts, Workload, forecast
from pipeline.stages.cache_steps import TeacherActor, UnitDecoder, journal_unit, unit_block
from pipeline.stages.cluster import for_this_machine
from pipeline.storage.files import read_json, write_json
from pipeline.storage.sealed.store import open_for_writing
from pipeline.training.step import Training, build_schedule
from pipeline.views.loader import ClipBatch, ClipLoader, ClipRequest

NUM_UNITS = 8  # after one that warms up
NUM_STEPS = 3
# Core seconds that Ray takes for one unit (tasks, driver, raylet), measured in stage one
# with units of 14 to 28 clips, at 2 to 13 units a second.
RAY_UNIT_SECONDS = 0.05
Clock = Callable[[], float]


@dataclass(frozen=True)
class ExperimentForecast:
    """A forecast and the unit costs that it was made from."""

    costs: UnitCosts
    run: RunForecast


def run_forecast(
    config: ExperimentConfig,
    *,
    nodes: int,
    cpus_per_node: int,
    gpus_per_node: int,
    costs: str | None,
    write_costs: str | None,
) -> None:
    """Print the forecast of a run on equal nodes; write its unit costs to ``write_costs``."""
    shape = ClusterShape(nodes, cpus_per_node, gpus_per_node)
    found = forecast_experiment(config, shape, costs_uri=costs)
    if write_costs is not None:
        write_json(write_costs, asdict(found.costs))
    parts = [
        f"{name.removesuffix('_seconds').replace('_', ' ')} {1000 * seconds:.3g}"
        for name, seconds in asdict(found.costs).items()
    ]
    print(f"ms a clip              {', '.join(parts)}\n{found.run.as_text()}")


def forecast_experiment(
    config: ExperimentConfig, shape: ClusterShape, *, costs_uri: str | None = None
) -> ExperimentForecast:
    """Predict stage one and the student's training on a cluster.

    ``costs_uri`` is a JSON file of costs that were measured elsewhere. Without it they are measured
    here, which needs the teacher's weights.

    ConfigError if the file of costs is not readable, or the cluster has no CPU.
    """
    manifest = read_source(config)
    if costs_uri is None:
        digest = teacher_digest(config, manifest.class_names)
        spec = plan_store(config, manifest=manifest, teacher_digest=digest)
        costs = measure_costs(for_this_machine(config), manifest, spec)
    else:
        spec = plan_store(config, manifest=manifest, teacher_digest="")  # only counted with
        try:
            costs = UnitCosts(**read_json(costs_uri))
        except (FileNotFoundError, ValueError, TypeError) as error:
            names = ", ".join(field.name for field in fields(UnitCosts))
            raise ConfigError(f"{costs_uri} must be a JSON object with {names}: {error}") from error
    workload = Workload(
        num_cached_clips=sum(len(unit.coordinates) for unit in plan_units(spec, manifest.records)),
        num_classes=spec.num_classes,
        num_frames=spec.num_frames,
        num_train_clips=len(manifest.rows_of("train")),
        num_epochs=config.train.epochs,
    )
    try:
        run = forecast(costs, shape, workload)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return ExperimentForecast(costs, run)


def measure_costs(config: ExperimentConfig, manifest: Manifest, spec: StoreSpec) -> UnitCosts:
    """Measure all costs on this machine; those of networks on its GPU with ``cluster.use_gpu``."""
    student = training_costs(config, student_recipe(config), manifest)
    return UnitCosts(*_stage_one_costs(config, manifest, spec), *student)


def _stage_one_costs(
    config: ExperimentConfig, manifest: Manifest, spec: StoreSpec
) -> tuple[float, float, float]:
    """Return seconds a clip of decoder, teacher and journal."""
    teacher, network_clock = TeacherActor(config, spec), _network_clock(config)
    with closing(UnitDecoder(config)) as decoder, tempfile.TemporaryDirectory() as folder:
        root = f"{folder}/store"
        open_for_writing(root, spec)

        def run(unit: Unit) -> NDArray[np.float64]:
            block = unit_block(unit, manifest.records[unit.rows.start : unit.rows.stop])
            clips, decode_seconds = _timed(_core_seconds, lambda: decoder(block))
            logits, teacher_seconds = _timed(network_clock, lambda: teacher(clips))
            _, journal_seconds = _timed(_core_seconds, lambda: journal_unit(logits, root, spec))
            journal_seconds += RAY_UNIT_SECONDS
            seconds = np.array([decode_seconds, teacher_seconds, journal_seconds])
            return seconds / len(unit.coordinates)

        first, *others = plan_units(spec, manifest.records)[: NUM_UNITS + 1]
        warming_up = run(first)
        # The median: now and then another process drives ours out of the caches.
        seconds = np.median([run(unit) for unit in others] or [warming_up], axis=0)
    decode, forward, journal = (float(value) for value in seconds)
    return decode, forward, journal


def training_costs(
    config: ExperimentConfig, recipe: Recipe, manifest: Manifest
) -> tuple[float, float]:
    """Return seconds a clip of decoding one view, by one loader, and of a training step."""
    # A step of several batches takes as long a clip as one of one batch. Nothing is mixed: the two
    # clips of a pair are decoded once each, like any others.
    measured = recipe.train.model_copy(update={"accumulate": 1, "compile": False})
    recipe = replace(recipe, train=measured)
    size = recipe.train.batch_size
    records = [manifest.records[row] for row in manifest.rows_of("train")]
    requests = (
        ClipRequest(0, record, recipe.view(record, 0), recipe.frame_stride)
        for record in itertools.cycle(records)
    )
    wanted = [list(itertools.islice(requests, size)) for _ in range(NUM_STEPS + 1)]
    with ClipLoader(1, config.dataset.limits, side=recipe.side) as loader:
        (first,) = loader.batches(wanted[:1])  # starts the decoder
        _, decode_seconds = _timed(_core_seconds, lambda: list(loader.batches(wanted[1:])))
    step_seconds = _step_seconds(config, recipe, first, len(manifest.class_names))
    return decode_seconds / (NUM_STEPS * size), step_seconds / size


def _step_seconds(
    config: ExperimentConfig, recipe: Recipe, batch: ClipBatch, num_classes: int
) -> float:
    """Return the median time of a cached step, on one thread or one GPU."""
    device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
    torch.set_num_threads(1)
    network = build_network(
        recipe.model, num_classes=num_classes, num_frames=recipe.clip_num_frames
    )
    schedule = build_schedule(
        recipe.optim, global_batch_size=len(batch.clips), steps_per_epoch=1.0, num_steps=1
    )
    training = Training(network.to(device), recipe, schedule, device)
    labels = torch.zeros(len(batch.clips), dtype=torch.long)
    teacher_logits = torch.zeros(len(batch.clips), num_classes)

    def step() -> float:  # the loss as a number: the device is done by then
        return training.step(0, batch, labels, teacher_logits, rank=0).loss

    step()
    return median(_timed(_network_clock(config), step)[1] for _ in range(NUM_STEPS))


def _network_clock(config: ExperimentConfig) -> Clock:
    """Return the clock of wall time for a GPU, whose work takes no CPU time, else of CPU time."""
    return time.perf_counter if config.cluster.use_gpu else time.process_time


def _core_seconds() -> float:
    """Return the CPU time of this process and its decoding processes."""
    decoders = (child.cpu_times() for child in psutil.Process().children())
    return time.process_time() + sum(float(times.user + times.system) for times in decoders)


def _timed(clock: Clock, work: Callable[[], Any]) -> tuple[Any, float]:
    started = clock()
    result = work()
    return result, clock() - started
