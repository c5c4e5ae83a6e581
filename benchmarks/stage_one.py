"""What does Ray cost stage one? The same units through the bare loop and through the stage.

    python benchmarks/stage_one.py CONFIG [section.key=value ...]

CONFIG is an experiment that is indexed and has a teacher. The bare loop calls the stage's own
actors one after the other in this process, so it is what one core does; the stage overlaps decoding
and teacher. Both write to a new place and must end in the same root digest.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from pipeline.cache_stage import CachePlan, plan_cache, run_cache_teacher
from pipeline.cluster import LOCAL
from pipeline.config import ExperimentConfig, load_config
from pipeline.logit_store.layout import plan_shards
from pipeline.logit_store.writer import gather_shard, open_for_writing, seal
from pipeline.unit_actors import TeacherActor, UnitDecoder, journal_unit, unit_block


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        words = [*arguments.overrides, f"tracking.uri=sqlite:///{folder}/mlflow.db"]
        bare = load_config(arguments.config, [*words, f"store.uri={folder}/bare"])
        on_ray = load_config(arguments.config, [*words, f"store.uri={folder}/ray"])
        bare_digest = run_bare(bare)
        started = time.monotonic()
        store = run_cache_teacher(on_ray, LOCAL)
        seconds = time.monotonic() - started
        num_clips = plan_cache(on_ray).num_clips
        print(f"stage on Ray   {num_clips / seconds:7.2f} clips/s, start, seal and MLflow included")
        print(f"same digest    {store.root_digest == bare_digest}")


def run_bare(config: ExperimentConfig) -> str:
    plan = plan_cache(config)
    open_for_writing(plan.root, plan.spec)
    decoder, teacher = UnitDecoder(config, plan.spec), TeacherActor(config)
    spent = {"decode": 0.0, "teacher": 0.0, "journal": 0.0}

    def timed(name: str, started: float) -> None:
        spent[name] += time.monotonic() - started

    for unit in plan.units:
        started = time.monotonic()
        clips = decoder(unit_block(unit, plan.records(unit.rows)))
        timed("decode", started)
        started = time.monotonic()
        logits = teacher(clips)
        timed("teacher", started)
        started = time.monotonic()
        journal_unit(logits, plan.root, plan.spec)
        timed("journal", started)
    say(plan, spent)
    shards = plan_shards(plan.spec, sorted(plan.units, key=lambda unit: unit.number))
    entries = [
        entry
        for shard in shards
        for entry in gather_shard(plan.root, plan.spec, shard, plan.records(shard.rows))
    ]
    return seal(plan.root, plan.spec, entries, provenance={}).root_digest


def say(plan: CachePlan, spent: dict[str, float]) -> None:
    whole = sum(spent.values())
    for name, seconds in spent.items():
        print(f"{name:13}  {plan.num_clips / seconds:7.2f} clips/s, {seconds / whole:5.1%} of it")
    print(f"bare loop      {plan.num_clips / whole:7.2f} clips/s")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"peak memory    {own / 1024:.0f} MiB teacher, {children / 1024:.0f} MiB decoder")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    main()
