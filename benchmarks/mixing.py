"""The cost of mixed views in stage one, and whether their targets are exact.

    python -m benchmarks.mixing [--side 112] [--rounds 5]

Decoder and teacher take a unit of 32 videos in turns, with mixing and without. Then a student goes
through the sealed store pair by pair, and the teacher answers each of its mixed clips anew.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from statistics import median

import torch
from torch import Tensor

from benchmarks.section import options, print_section, say
from benchmarks.small_experiment import build_experiment
from benchmarks.stage_one import run_bare
from benchmarks.timing import paired_ratio, take_turns
from pipeline.config.experiment import ExperimentConfig
from pipeline.networks.teacher import TeacherPredictor
from pipeline.stages.cache import plan_cache
from pipeline.stages.cache_steps import TeacherActor, UnitDecoder, unit_block
from pipeline.training.plan import open_plan_mirror, plan_student
from pipeline.training.proof import audit
from pipeline.views.loader import ClipLoader

SETTINGS = (
    "dataset.generated={num_groups: 20, num_val_groups: 2, clips_per_group: 1}",
    "views.num_views=4",
    "store.clips_per_unit=128",
    "train.audit_rate=1",
    "train.batch_size=16",
)
NUM_CLIPS = 512


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        sizes, words = {}, (*SETTINGS, f"clip.side={arguments.side}")
        for name, mix in (("plain", ()), ("mixed", ("views.mix={}",))):
            say(f"{name} views")
            config = build_experiment(f"{folder}/{name}", *words, *mix)
            decoder = stack.enter_context(closing(UnitDecoder(config)))
            runs[name], sizes[name] = unit_run(config, decoder)
        seconds = take_turns(runs, time.perf_counter, rounds=arguments.rounds)
        say("the whole store, and a student")
        run_bare(plan_cache(config))
        divergences, num_proved = check_targets(config)
    print_section(
        f"Mixed views: 8 x {arguments.side} x {arguments.side}",
        ("views", "clips/s", "MiB of a unit of 128 clips"),
        [(name, 128 / median(seconds[name]), sizes[name] / 2**20) for name in runs],
        f"Decoder and teacher take {paired_ratio(seconds['mixed'], seconds['plain']):.2f} times as "
        f"long with mixing; each video is decoded once for all its views. {len(divergences)} mixed "
        "clips of a student against the live teacher: KL of store and answer at most "
        f"{float(divergences.max()):.1e} nats. {num_proved} clips and their partners were proved.",
    )


def unit_run(config: ExperimentConfig, decoder: UnitDecoder) -> tuple[Callable[[], object], int]:
    """Return a function that runs a unit of train, and the bytes of its decoded block."""
    plan = plan_cache(config)
    unit = next(unit for unit in plan.units if not plan.evaluates(unit))
    block, actor = unit_block(unit, plan.records(unit.rows)), TeacherActor(config, plan.spec)
    return lambda: actor(decoder(block)), decoder(block).nbytes


def check_targets(config: ExperimentConfig) -> tuple[Tensor, int]:
    """Return KL(store || live teacher) of mixed clips, in nats, and how many were proved."""
    plan = plan_student(config)
    mirror, limits = open_plan_mirror(plan), config.dataset.limits
    assert mirror is not None
    teacher = TeacherPredictor(config, plan.manifest.class_names)
    found, num_proved = list[Tensor](), 0
    with ClipLoader(1, limits, side=plan.recipe.side) as loader:
        for batch in loader.batches(plan.train_requests(0, 0)):
            num_proved += audit(batch, mirror, limits)
            cells = [request.cell for request in batch.requests]
            rows, views = (list(column) for column in zip(*cells, strict=True))
            cached = torch.from_numpy(mirror.teacher_logits(rows, views)).log_softmax(1)
            live = torch.from_numpy(teacher.logits(batch.frames, batch.jitter, batch.mixing))
            kl = (cached.exp() * (cached - live[: len(cells)].log_softmax(1))).sum(1)
            found.append(kl[[request.partner is not None for request in batch.requests]])
            if sum(map(len, found)) >= NUM_CLIPS:
                break
    return torch.cat(found)[:NUM_CLIPS], num_proved


if __name__ == "__main__":
    main()
