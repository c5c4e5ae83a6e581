"""Does the epoch run at the rate of the bare student step? From videos, and from prepared frames.

    python -m benchmarks.epoch_rate [--side 112] [--width 32] [--batch-size 4] [--loaders 1]

Prints a Markdown section. The training loop is the real one, without Ray, on files of Kinetics'
size and on sealed logit stores with proofs, which a small random teacher filled. The bare step gets
one ready batch again and again. All three take turns, and each figure is the best of its rounds.
Other work on the machine still disturbs wall time; CPU is that of the training process alone.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.prepared_frames import LIMITS, drawn, write_video
from benchmarks.section import say
from pipeline.audit import audit
from pipeline.cache_stage import plan_cache
from pipeline.clip_loader import ClipBatch, ClipLoader
from pipeline.clips import clips_of
from pipeline.config import ExperimentConfig
from pipeline.frame_store import writer as frame_writer
from pipeline.logit_store import writer as logit_writer
from pipeline.logit_store.layout import plan_shards
from pipeline.logit_store.mirror import Mirror, open_mirror
from pipeline.manifest import VideoRecord, build_manifest, write_manifest
from pipeline.networks import build_network
from pipeline.prepare_stage import UnitPreparer, plan_frames
from pipeline.recipe import student_recipe
from pipeline.sources import read_source
from pipeline.train_loop import EpochResult, proven_targets, train
from pipeline.train_plan import TrainPlan
from pipeline.train_stage import plan_training
from pipeline.training import Training
from pipeline.unit_actors import TeacherActor, UnitDecoder, journal_unit, unit_block
from pipeline.video import probe_video
from pipeline.weight_files import write_weights

NUM_FILES, NUM_VIDEOS, NUM_FRAMES = 3, 24, 300  # several rows share a file
CLASSES = ("jump", "run")
WARM_UP = 4  # steps, in which the decoders start and the first batches come in
SOURCES = ("videos", "prepared")


@dataclass
class Clock:
    """The place of a worker that is alone; it writes down wall and CPU time after each step."""

    rank: int = 0
    times: list[tuple[float, float]] = field(default_factory=list)

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def advance(self, step: int) -> None:
        self.times.append((time.monotonic(), time.process_time()))

    def report(self, epoch: EpochResult) -> None:
        """Do nothing: checkpoints are not what is measured."""

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds a step, once the loop is warm."""
        first, last = self.times[WARM_UP], self.times[-1]
        num_steps = len(self.times) - 1 - WARM_UP
        return (last[0] - first[0]) / num_steps, (last[1] - first[1]) / num_steps


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = write_dataset(folder)
        experiments = {}
        for source in SOURCES:
            say(f"{source}: frames, teacher logits, mirror")
            experiments[source] = set_up(folder, source, records, arguments)
        seconds: dict[str, list[tuple[float, float]]] = {n: [] for n in ("bare", *SOURCES)}
        for number in range(arguments.rounds):
            say(f"round {number + 1} of {arguments.rounds}")
            seconds["bare"].append(bare_step(*experiments["prepared"]))
            for source, (plan, mirror) in experiments.items():
                clock = Clock()
                train(plan, start(plan), clock, mirror=mirror)
                seconds[source].append(clock.seconds)
        best = {
            name: tuple(min(values) for values in zip(*rounds, strict=True))
            for name, rounds in seconds.items()
        }
        report(best, *shares(*experiments["prepared"]), arguments)


def write_dataset(folder: Path) -> list[VideoRecord]:
    pictures = drawn()
    probed = []
    for number in range(NUM_FILES):
        say(f"file {number + 1} of {NUM_FILES}")
        path = write_video(folder / f"{number}.mp4", itertools.islice(pictures, NUM_FRAMES))
        probed.append(probe_video(VideoRecord(path.stem, str(path), 0, "train"), LIMITS))
    return probed


def set_up(
    folder: Path, source: str, files: Sequence[VideoRecord], arguments: argparse.Namespace
) -> tuple[TrainPlan, Mirror]:
    """Make everything that training needs, by the stages' own parts and without Ray."""
    config = experiment(folder, source, arguments)
    rows = [row_of(files[place % NUM_FILES], place) for place in range(NUM_VIDEOS + 1)]
    manifest = build_manifest(config.dataset.name, CLASSES, rows)
    write_manifest(manifest, config.manifest_uri, root=str(folder))
    if source == "prepared":
        prepare(config)
    network = build_network(config.teacher, num_classes=2, num_frames=config.clip.num_frames)
    write_weights(config.own_teacher_uri, network.state_dict(), {}, class_names=CLASSES)
    cache(config)
    mirror = open_mirror(config.store_uri, folder / "mirrors")
    return plan_training(config, student_recipe(config), read_source(config), mirror), mirror


def row_of(file: VideoRecord, place: int) -> VideoRecord:
    values = vars(file) | {
        "sample_id": f"v{place:03d}",
        "uri": Path(file.uri).name,
        "label": place % 2,
        "split": "val" if place == NUM_VIDEOS else "train",
    }
    return VideoRecord(**values)


def experiment(folder: Path, source: str, arguments: argparse.Namespace) -> ExperimentConfig:
    batch = arguments.batch_size
    small = {"variant": "nano", "embed_dim": 8, "depths": (1, 1, 1, 1)}
    return ExperimentConfig.model_validate(
        {
            "artefacts": str(folder / source),
            "dataset": {
                "name": "drawn",
                "root": str(folder),
                "layout": "folders",
                "num_classes": 2,
            },
            "clip": {"side": arguments.side},
            "views": {"num_views": 2},
            "frames": {"source": source},
            "teacher": small,
            "student": {"variant": "nano", "embed_dim": arguments.width},
            "optim": {"lr": 1e-4, "lr_batch_size": None, "warmup_epochs": 0},
            "train": {
                "epochs": 3,
                "batch_size": batch,
                "evaluate_every_epochs": 3,
                "num_loaders": arguments.loaders,
            },
        }
    )


def prepare(config: ExperimentConfig) -> None:
    plan = plan_frames(config)
    frame_writer.open_for_writing(plan.root, plan.spec)
    preparer = UnitPreparer(config, plan.spec)
    for unit in range(plan.spec.num_units):
        preparer(plan.block(unit))
    files = range(plan.spec.num_files)
    gathered = [frame_writer.gather_file(plan.root, plan.spec, number) for number in files]
    frame_writer.seal(plan.root, plan.spec, gathered, videos=plan.videos, provenance={})


def cache(config: ExperimentConfig) -> None:
    plan = plan_cache(config)
    logit_writer.open_for_writing(plan.root, plan.spec)
    decoder, teacher = UnitDecoder(config, plan.spec), TeacherActor(config)
    for unit in plan.units:
        clips = decoder(unit_block(unit, plan.records(unit.rows)))
        journal_unit(teacher(clips), plan.root, plan.spec)
    entries = [
        entry
        for shard in plan_shards(plan.spec, sorted(plan.units, key=lambda unit: unit.number))
        for entry in logit_writer.gather_shard(
            plan.root, plan.spec, shard, plan.records(shard.rows)
        )
    ]
    logit_writer.seal(plan.root, plan.spec, entries, provenance={})


def start(plan: TrainPlan) -> Training:
    torch.manual_seed(0)
    return Training(
        build_network(plan.recipe.model, num_classes=2, num_frames=plan.recipe.num_frames),
        loss=plan.recipe.loss,
        optim=plan.recipe.optim,
        train=plan.recipe.train,
        schedule=plan.schedule,
        device=torch.device("cpu"),
        motion_only=False,
    )


def ready_batch(plan: TrainPlan) -> ClipBatch:
    with ClipLoader(1, LIMITS, side=plan.recipe.side) as loader:
        return next(loader.batches(plan.train_requests(0, rank=0)))


def bare_step(plan: TrainPlan, mirror: Mirror) -> tuple[float, float]:
    """Return wall and CPU seconds of a step on a batch that is there."""
    training, batch = start(plan), ready_batch(plan)
    labels = torch.tensor(plan.labels([request.row for request in batch.requests]))
    targets = proven_targets(batch, mirror)
    clock = Clock()
    for step in range(plan.order.num_steps):
        training.step(step, batch, labels, targets, rank=0)
        clock.advance(step)
    return clock.seconds


def shares(plan: TrainPlan, mirror: Mirror) -> tuple[float, float]:
    """Return the seconds a step of reading targets, and of the audit at its rate."""
    batch, size = ready_batch(plan), plan.recipe.train.batch_size
    coordinates = [[r.row, r.view.view_index] for r in batch.requests]
    rows, views = zip(*coordinates, strict=True)
    target = timed(lambda: torch.from_numpy(mirror.teacher_logits(rows, views)), 200)
    request, side = batch.requests[0], plan.recipe.side

    def clip(prove: bool) -> Any:
        return clips_of(request.record, [request.seen], LIMITS, side=side, prove=prove)[0]

    proving = timed(lambda: clip(True), 30) - timed(lambda: clip(False), 30)
    comparing = timed(lambda: audit(batch, mirror), 200)
    return target, comparing + proving * size * plan.recipe.train.audit_rate


def timed(call: Callable[[], Any], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def report(
    best: dict[str, tuple[float, ...]], target: float, proof: float, arguments: argparse.Namespace
) -> None:
    (bare, _), size = best["bare"], arguments.batch_size
    rows = {
        "bare step, ready clips": best["bare"],
        "epoch from prepared frames": best["prepared"],
        "epoch from videos": best["videos"],
    }
    print("## Epoch rate against the bare step (`benchmarks/epoch_rate.py`)\n")
    print("| | ms a step | CPU ms | clips/s | of the bare rate | goal |")
    print("|---|---|---|---|---|---|")
    for name, (seconds, cpu) in rows.items():
        goal = ">= 0.95" if "prepared" in name else "-"
        times = f"{1e3 * seconds:.1f} | {1e3 * cpu:.1f} | {size / seconds:.1f}"
        print(f"| {name} | {times} | {bare / seconds:.2f} | {goal} |")
    for name, seconds, goal in (("target read", target, "0.1"), ("audit, 1/64", proof, "2")):
        share = f"{seconds / bare:.3%} of a step"
        print(f"| {name} | {1e3 * seconds:.3f} | - | - | {share} | < {goal} % |")
    side = arguments.side
    print(
        f"\nNano of width {arguments.width}, {size} clips of 8 x {side} x {side}, one thread, "
        f"{arguments.loaders} decoding process(es); clips travel as uint8, and augmentation is in "
        "the step."
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--loaders", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
