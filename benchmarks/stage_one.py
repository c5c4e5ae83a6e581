"""The cost of Ray in stage one: the same units through the bare loop and through the stage.

    python -m benchmarks.stage_one
    python -m benchmarks.stage_one CONFIG [section.key=value ...]

CONFIG is an experiment that is indexed and has a teacher. Without one, two are made with random
weights: a small teacher, and Video-FocalNet-Base at 8 x 224 x 224 on a few clips. The bare loop
calls the stage's own actors one after the other in this process, so it is what one core does; the
stage overlaps decoding and teacher. Both write to a new place and must end in the same root digest.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.section import options, print_section, say
from benchmarks.small_experiment import build_experiment
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.logits.spec import plan_shards
from pipeline.logits.store import gather_shard, seal_logits
from pipeline.results.costs import memory_bytes
from pipeline.stages.cache import CachePlan, plan_cache, run_cache_teacher
from pipeline.stages.cache_steps import TeacherActor, UnitDecoder, journal_unit, unit_block
from pipeline.stages.cluster import LOCAL
from pipeline.storage.sealed.store import open_for_writing
from pipeline.tracking.server import connect, experiment_id, newest_run

# A teacher and clips that are large enough for their cost to exceed Ray's.
SMALL = ("dataset.generated.num_val_groups=1", "teacher.embed_dim=32", "clip.side=64")
BASE = (
    "dataset.generated={num_groups: 2, num_val_groups: 1, clips_per_group: 1}",
    "teacher={variant: base}",
    "clip.side=224",
    "views.num_views=1",
    "store.clips_per_unit=4",
    "cluster.teacher_batch_size=1",
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("config", type=Path, nargs="?")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.config is not None:
            words = [*arguments.overrides, f"tracking.uri=sqlite:///{folder}/mlflow.db"]
            config = load_config(arguments.config, words)
            print_comparison(f"Stage one of {config.dataset.name}", config, folder)
            return
        config = build_experiment(f"{folder}/small", *SMALL)
        print_comparison("Stage one against the bare loop", config, f"{folder}/small")
        print()
        config = build_experiment(f"{folder}/base", *BASE)
        print_comparison("Video-FocalNet-Base in stage one", config, f"{folder}/base")


def print_comparison(title: str, config: ExperimentConfig, folder: str) -> None:
    """Run both ways, with stores below ``folder``, and print a section."""
    bare, on_ray = (
        config.model_copy(
            update={"store": config.store.model_copy(update={"uri": f"{folder}/{name}"})}
        )
        for name in ("bare", "ray")
    )
    plan = plan_cache(bare)
    say(f"bare loop over {plan.num_clips} clips")
    bare_digest, spent = run_bare(plan)
    peak_mib = memory_bytes("VmHWM") / 2**20
    say("stage on Ray")
    with contextlib.redirect_stdout(sys.stderr):
        store = run_cache_teacher(plan_cache(on_ray), LOCAL)
    client, key = connect(on_ray.tracking_uri), plan.spec.fingerprint
    run = newest_run(client, experiment_id(client, on_ray), "cache_teacher", key, finished=True)
    if store.root_digest != bare_digest:
        raise SystemExit(f"root digests differ: {bare_digest} bare, {store.root_digest} on Ray")
    print_section(
        title,
        ("part", "clips/s", "of the bare loop", "of the teacher alone"),
        rows(plan.num_clips, spent, run.data.metrics["cache/clips_per_second"]),
        f"{plan.num_clips} clips, teacher {config.teacher.variant}, {config.clip.num_frames} x "
        f"{config.clip.side} x {config.clip.side}. The stage's rate counts from its first unit, "
        f"which was there {run.data.metrics['cache/start_seconds']:.0f} s after Ray was; "
        "units that were under way by then flatter a short run. Equal "
        f"root digests. Peak memory of the bare loop's process: {peak_mib:,.0f} MiB.",
    )


def rows(num_clips: int, spent: Mapping[str, float], stage_rate: float) -> list[tuple[object, ...]]:
    rates = {f"bare: {name}": num_clips / seconds for name, seconds in spent.items()}
    rates["bare loop"] = bare_rate = num_clips / sum(spent.values())
    rates["stage on Ray, streaming"] = stage_rate
    teacher_rate = num_clips / spent["teacher"]
    return [(name, rate, rate / bare_rate, rate / teacher_rate) for name, rate in rates.items()]


def run_bare(plan: CachePlan) -> tuple[str, dict[str, float]]:
    """Do every unit in this process; return the root digest and the seconds of each part."""
    open_for_writing(plan.root, plan.spec)
    teacher = TeacherActor(plan.config, plan.spec)
    spent = {"decode": 0.0, "teacher": 0.0, "journal": 0.0}
    with contextlib.closing(UnitDecoder(plan.config)) as decoder:
        for unit in plan.units:
            started = time.monotonic()
            clips = decoder(unit_block(unit, plan.records(unit.rows)))
            decoded = time.monotonic()
            logits = teacher(clips)
            answered = time.monotonic()
            journal_unit(logits, plan.root, plan.spec)
            spent["decode"] += decoded - started
            spent["teacher"] += answered - decoded
            spent["journal"] += time.monotonic() - answered
    shards = plan_shards(plan.spec, sorted(plan.units, key=lambda unit: unit.number))
    entries = [
        entry
        for shard in shards
        for entry in gather_shard(plan.root, plan.spec, shard, plan.records(shard.rows))
    ]
    return seal_logits(plan.root, plan.spec, entries, provenance={}).root_digest, spent


if __name__ == "__main__":
    main()
