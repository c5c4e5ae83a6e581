"""The whole product in order: from videos to a student that is measured, exported and reported.

Every stage does only what is missing, so the same command goes on after a kill, and redoes what an
edit of the experiment changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.generated.videos import generate_dataset
from pipeline.dataset.manifest import VideoRecord, read_manifest
from pipeline.errors import FingerprintMismatch, StoreIncomplete
from pipeline.frames.source import read_source
from pipeline.logits.generations import open_experiment_store
from pipeline.networks.recipe import student_recipe, teacher_recipe
from pipeline.results.figures import compare_results
from pipeline.results.forecast import ClusterShape
from pipeline.stages.cache import plan_cache, run_cache_teacher
from pipeline.stages.cluster import least, ray_session, required_cpus
from pipeline.stages.doctor import run_doctor
from pipeline.stages.evaluate import plan_evaluation, run_evaluate
from pipeline.stages.export import plan_export, run_export
from pipeline.stages.forecast import forecast_experiment, training_costs
from pipeline.stages.index import plan_index, run_index_videos
from pipeline.stages.prepare import plan_frames, run_prepare_frames
from pipeline.stages.report import run_report
from pipeline.stages.train import run_training
from pipeline.storage.files import exists, join_uri
from pipeline.tracking.progress import duration
from pipeline.training.plan import own_students, plan_student, plan_teacher

FEW_VAL_VIDEOS = 30

Stage = tuple[str, Callable[[], Any]]  # what it does, and its function


@dataclass(frozen=True)
class DistillPlan:
    """The stages of an experiment. Each makes a plan of its own when it runs.

    ``teacher_config`` is the YAML file of an experiment that makes the teacher, on other videos.
    """

    config: ExperimentConfig
    teacher_config: str | None = None

    def stages(self, ray_address: str, results: dict[str, dict[str, Any]]) -> list[Stage]:
        stages = list(_stages(self.config, ray_address, results))
        if self.teacher_config is not None:
            teacher = load_config(self.teacher_config)
            stages[:0] = _teacher_stages(teacher, ray_address, results)
        return stages

    def as_text(self) -> str:
        stages = enumerate(self.stages("", {}), start=1)
        return "\n".join(f"  {number}. {title}" for number, (title, _) in stages)


def run_distill(plan: DistillPlan, ray_address: str) -> None:
    """Run all stages of an experiment, and print the comparison and the next command last.

    Raises:
        PipelineError: of the stage that could not go on; the ones before it stay done.
    """
    print(plan.as_text())
    config, cluster = plan.config, plan.config.cluster
    results: dict[str, dict[str, Any]] = {}
    stages = plan.stages(ray_address, results)
    num_cpus = max(required_cpus(cluster.num_decoders, cluster.num_teachers), cluster.num_workers)
    num_networks = max(least(cluster.num_teachers), cluster.num_workers)
    with ray_session(config, ray_address, num_cpus=num_cpus, num_networks=num_networks):
        for number, (title, run) in enumerate(stages, start=1):
            print(f"\n=== {number}/{len(stages)}  {title}", flush=True)
            run()
    students = {title: results[title] for title in config.students}
    print(compare_results(results.get("teacher"), students, results["evaluation"]))
    *_, student = own_students(config)
    predict = "dvflnet predict" if sys.argv[0].startswith("dvflnet ") else "python jobs/predict.py"
    print(f"\nExported: {join_uri(config.artefacts, 'exports')}\nNext: {predict} {student} VIDEO")


def _video_stages(config: ExperimentConfig, ray_address: str) -> Iterator[Stage]:
    if config.dataset.generated:
        yield "videos, drawn", lambda: generate_dataset(config.dataset)
    yield "index: which videos are good", lambda: _index(config, ray_address)
    if config.frames.source == "prepared":
        yield ("frames, decoded once", lambda: run_prepare_frames(plan_frames(config), ray_address))


def _teacher_stages(
    config: ExperimentConfig, ray_address: str, results: dict[str, dict[str, Any]]
) -> Iterator[Stage]:
    def train() -> None:
        results["teacher"] = run_training(plan_teacher(config), ray_address)

    name = config.dataset.name
    yield from ((f"{name}: {title}", run) for title, run in _video_stages(config, ray_address))
    yield f"{name}: teacher, from labels", train


def _stages(
    config: ExperimentConfig, ray_address: str, results: dict[str, dict[str, Any]]
) -> Iterator[Stage]:
    def train(title: str, arm: ExperimentConfig) -> Stage:
        def run() -> None:
            results[title] = run_training(plan_student(arm), ray_address)

        return f"student: {title}", run

    def evaluate() -> None:
        results["evaluation"] = run_evaluate(plan_evaluation(config), ray_address)

    yield from _video_stages(config, ray_address)
    yield "the time that it will take", lambda: _estimate(config)
    if _trains_teacher(config):
        *_, teacher = _teacher_stages(config, ray_address, results)
        yield teacher
    yield (
        "cache: the teacher's logits for every view",
        lambda: run_cache_teacher(plan_cache(config), ray_address),
    )
    yield "doctor: is the cache sound", lambda: run_doctor(config, num_verified=0, json_uri=None)
    yield from (train(title, arm) for title, arm in config.students.items())
    yield "evaluation", evaluate
    yield "export, for the device", lambda: run_export(plan_export(config))
    yield "report", lambda: run_report(config)


def _trains_teacher(config: ExperimentConfig) -> bool:
    return config.teacher.weights is None and not config.teacher.brings_weights


def _index(config: ExperimentConfig, ray_address: str) -> None:
    """Probe the videos, unless the manifest has just those that the annotations name."""
    plan = plan_index(config)
    if exists(config.manifest_uri):
        manifest = read_manifest(config.manifest_uri)
        if _facts(manifest.records) == _facts(plan.annotated.records):
            print(f"{len(manifest.records)} videos are indexed, nothing to do")
            return
    run_index_videos(plan, ray_address)


def _facts(records: Sequence[VideoRecord]) -> set[tuple[str, object, str, str]]:
    return {(video.sample_id, video.label, video.split, video.group) for video in records}


def _cached(config: ExperimentConfig) -> bool:
    try:
        open_experiment_store(config, read_source(config))
    except (StoreIncomplete, FingerprintMismatch):
        return False
    return True


def _estimate(config: ExperimentConfig) -> None:
    """Measure a few steps of both networks here, and print what the rest will take.

    Of a teacher that is trained here, a forward pass is taken for a third of a training step.
    Evaluations, export and report are not counted.
    """
    manifest, num_cores = read_source(config), os.cpu_count() or 1
    num_videos, num_val = len(manifest.rows_of("train")), len(manifest.rows_of("val"))
    if num_val < FEW_VAL_VIDEOS:
        print(f"note: {num_val} videos of val are too few to tell two students apart")

    def seconds(decode: float, network: float, num_clips: int, *, done: bool = False) -> float:
        return 0.0 if done else num_clips * max(network, (decode + network) / num_cores)

    parts, has_teacher = {}, True
    if _trains_teacher(config):
        has_teacher = exists(plan_teacher(config).files.result)
        decode, step = training_costs(config, teacher_recipe(config), manifest)
        num_clips = num_videos * config.teacher.train.epochs
        parts["teacher"] = seconds(decode, step, num_clips, done=has_teacher)
        forward, of_student = step / 3, training_costs(config, student_recipe(config), manifest)
    else:
        costs = forecast_experiment(config, ClusterShape(1, num_cores, 0)).costs
        decode, forward = costs.decode_seconds, costs.teacher_seconds
        of_student = costs.student_decode_seconds, costs.student_step_seconds
    num_clips, cached = num_videos * config.views.num_views, has_teacher and _cached(config)
    parts["cache"] = seconds(decode, forward, num_clips, done=cached)
    num_students = len(config.students)
    one = seconds(*of_student, num_videos * config.train.epochs)
    parts[f"{num_students} students"] = num_students * one
    each = ", ".join(f"{name} {duration(value)}" for name, value in parts.items())
    print(f"about {duration(sum(parts.values()))} on this machine: {each}", flush=True)
