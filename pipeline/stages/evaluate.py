"""The evaluation of networks on the videos of one split, side by side.

::

    plan      which networks, which views -> blocks of videos
    run       cut views (CPU actors) -> score (network actors)
    publish   predictions, pages and a run in MLflow for each network; summary.json last

Every video of the split is counted once: as evaluated, or as failed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from dvflnet.deployed import ClipClassifier
from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest, check_failed_fraction
from pipeline.dataset.seen import seen_by_teacher
from pipeline.errors import ConfigError, DatasetError, Status
from pipeline.frames.source import read_source
from pipeline.logits.spec import TRANSFORM_VERSION
from pipeline.networks.teacher import has_teacher
from pipeline.networks.trained import TEACHER, TrainedNetwork, load_teacher, load_trained
from pipeline.results.evaluation import Evaluation
from pipeline.results.figures import COLOURS, confusion_figure, per_class_table, reliability_figure
from pipeline.results.training_run import MODEL_SCORES
from pipeline.stages.cluster import check_importable, least, ray_session, required_cpus
from pipeline.stages.evaluate_steps import (
    Candidate,
    Look,
    Scorer,
    ViewCutter,
    looks_of,
    videos_block,
)
from pipeline.stages.pool_sizes import ClusterPools
from pipeline.stages.stream import Step, network_resources, stream
from pipeline.stages.train import register_run
from pipeline.storage import files
from pipeline.storage.files import join_uri, sha256_of
from pipeline.storage.sealed.identity import canonical_json
from pipeline.storage.sealed.tables import encode_table
from pipeline.tracking.progress import Progress
from pipeline.tracking.run import TrackedRun, open_run
from pipeline.training.plan import own_students
from pipeline.views.view import Protocol

CLIPS_PER_BLOCK = 48


@dataclass(frozen=True)
class EvaluationPlan:
    """The networks, the videos and the views of an evaluation."""

    config: ExperimentConfig
    manifest: Manifest
    protocol: Protocol
    networks: tuple[TrainedNetwork, ...]  # the teacher, if any, is the first
    split: str = "val"

    @property
    def rows(self) -> list[int]:
        records = self.manifest.records
        return [row for row in self.manifest.rows_of(self.split) if records[row].label is not None]

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides the result, up to rounding."""
        decisive = {
            "networks": {network.name: network.digest for network in self.networks},
            "protocol": self.protocol.name,
            "manifest": self.manifest.digest,
            "split": self.split,
            "groups": [self.manifest.records[row].group for row in self.rows],
            "transform": TRANSFORM_VERSION,
            "teacher_precision": self.config.teacher.precision,
            **({"seen": self.seen} if self.seen else {}),
        }
        return sha256_of(canonical_json(decisive))

    @cached_property
    def seen(self) -> list[str]:
        """Sentences on the videos of the split that the teacher was trained on."""
        return seen_by_teacher(self.config.teacher.seen, self.manifest.records, (self.split,))

    @property
    def folder(self) -> str:
        name = f"{self.protocol.name}-{self.key[:8]}"
        return join_uri(self.config.artefacts, "evaluations", name)

    @property
    def candidates(self) -> list[Candidate]:
        """The networks as actors get them: by their files."""
        return [
            Candidate(it.name, it.uri, it.digest, Look.of(it.recipe), it.config)
            for it in self.networks
        ]

    def as_text(self) -> str:
        return (
            f"networks  {', '.join(network.title for network in self.networks)}\n"
            f"videos    {len(self.rows)} of {self.split}, {self.protocol.name} clips x crops each\n"
            f"results   {self.folder}"
        )


def plan_evaluation(
    config: ExperimentConfig,
    *,
    num_clips: int = 1,
    num_crops: int = 1,
    checkpoints: Sequence[str] = (),
    networks: Sequence[str] = (),
    with_teacher: bool = True,
    split: str = "val",
) -> EvaluationPlan:
    """Find the networks and check that they fit the data set; writes nothing.

    A video has ``num_clips`` views in time, and each of them ``num_crops`` in space.
    ``checkpoints`` are URIs of weights that training wrote; if empty, those of the experiment's own
    students: DVFL-Net and, if it was trained, VFL-Net. ``with_teacher`` evaluates the teacher, too,
    if its weights are there. ``networks`` are weights from anywhere, which are evaluated alone.
    ``split`` is ``train``, ``val`` or ``test``.

    StoreIncomplete if no student was trained yet; WeightsMismatch for a network of other classes;
    ConfigError if the protocol does not fit the views, or two networks are the same.
    """
    if config.views.squash and num_crops > 1:
        raise ConfigError("views.squash shows the whole picture; evaluate with one crop of it")
    try:
        protocol = Protocol(num_clips, num_crops)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    manifest = read_source(config)
    names = manifest.class_names
    uris = [*networks, *checkpoints] or own_students(config)
    found = [load_trained(uri, config, names) for uri in uris]
    if with_teacher and not networks and has_teacher(config):
        found.append(load_teacher(config, names))
    elif with_teacher and not networks:
        print(f"the teacher is left out: there are no weights at {config.teacher_weights_uri}")
    found.sort(key=lambda network: network.name != TEACHER)
    for network in found:
        network.check_classes(names)
    names = tuple(network.name for network in found)
    if len(set(names)) < len(names):
        raise ConfigError(f"the same network is given twice: {', '.join(names)}")
    if not manifest.rows_of(split):
        there = ", ".join(sorted({record.split for record in manifest.records if record.good}))
        raise DatasetError(
            f"{config.manifest_uri} has no good video of split {split}; it has {there or 'none'}"
        )
    return EvaluationPlan(config, manifest, protocol, tuple(found), split)


def run_evaluate(
    plan: EvaluationPlan, ray_address: str, *, register: str | None = None
) -> dict[str, Any]:
    """Evaluate, publish and return the summary.

    With ``register`` the last network becomes a version of that registered model in MLflow.
    TooManyFailedVideos before anything is published, if too many of its videos are bad.
    """
    summary = _evaluate(plan, ray_address)
    if register:
        network = plan.networks[-1]
        scores = summary["networks"][network.name]
        metrics = {f"{plan.split}/{name}": scores[name] for name in MODEL_SCORES}
        _register(plan, network, register, metrics)
    return summary


def _evaluate(plan: EvaluationPlan, ray_address: str) -> dict[str, Any]:
    config = plan.config
    print(plan.as_text(), flush=True)
    summary_uri = join_uri(plan.folder, "summary.json")
    if files.exists(summary_uri):
        summary = files.read_record(summary_uri)
        print(f"evaluated already, nothing to do\n\n{summary['text']}")
        return summary
    num_cpus = required_cpus(config.cluster.num_decoders, config.cluster.num_teachers)
    num_networks = least(config.cluster.num_teachers)
    with ray_session(config, ray_address, num_cpus=num_cpus, num_networks=num_networks):
        check_importable(*(network.recipe.model for network in plan.networks))
        evaluation = collect(plan, _scores(plan))
    records = [plan.manifest.records[row] for row in plan.manifest.rows_of(plan.split, good=False)]
    check_failed_fraction(len(evaluation.failures), records, config.dataset)
    runs = [_track(plan, network, evaluation) for network in plan.networks]
    predictions = encode_table(evaluation.predictions())
    files.write_bytes(join_uri(plan.folder, "predictions.parquet"), predictions)
    summary = evaluation.summary | {"text": evaluation.text, "link": runs[-1].students_link}
    files.write_record(summary_uri, summary)
    print(f"\n{evaluation.text}\n\nresults: {plan.folder}\n{summary['link']}")
    return summary


def collect(plan: EvaluationPlan, scores: Iterable[Mapping[str, Any]]) -> Evaluation:
    """Put the scores of all videos in order; a video that one network lacks is left out for all.

    DatasetError if a video is missing, or came twice.
    """
    names = [network.name for network in plan.networks]
    found: dict[str, dict[int, list[float]]] = {name: {} for name in names}
    listed = (plan.manifest.records[row] for row in plan.manifest.rows_of(plan.split, good=False))
    failures = {record.sample_id: record.reason for record in listed if not record.good}
    for score in scores:
        if score["status"] != Status.GOOD:
            failures[plan.manifest.records[score["row"]].sample_id] = score["reason"]
        elif score["row"] in found[score["network"]]:
            raise DatasetError(f"row {score['row']} was evaluated twice by {score['network']}")
        else:
            found[score["network"]][score["row"]] = score["probabilities"]
    failed = {row for row in plan.rows if plan.manifest.records[row].sample_id in failures}
    rows = [row for row in plan.rows if row not in failed]
    for name, by_row in found.items():
        if missing := set(rows) - by_row.keys():
            raise DatasetError(f"{name} did not see {len(missing)} videos, such as {min(missing)}")
    return Evaluation(
        split=plan.split,
        protocol=plan.protocol.name,
        class_names=plan.manifest.class_names,
        rows=tuple(rows),
        sample_ids=tuple(plan.manifest.records[row].sample_id for row in rows),
        groups=tuple(plan.manifest.records[row].group for row in rows),
        labels=np.array([plan.manifest.records[row].label_number for row in rows], np.int64),
        probabilities={name: np.array([found[name][row] for row in rows]) for name in names},
        weights={network.name: PurePosixPath(network.uri).stem for network in plan.networks},
        failures=failures,
        seen=tuple(plan.seen),
    )


def _scores(plan: EvaluationPlan) -> Iterator[dict[str, Any]]:
    """Yield the scores of each video by each network, in any order."""
    config, candidates, rows = plan.config, plan.candidates, plan.rows
    size = max(1, CLIPS_PER_BLOCK // plan.protocol.num_views)
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    blocks = [videos_block(rows, [plan.manifest.records[row] for row in rows]) for rows in chunks]
    cutting = (looks_of(candidates), plan.protocol, config.dataset.limits)
    pools = ClusterPools(config)
    pools.show()
    cut = Step(ViewCutter, cutting, pools.num_decoders)
    scoring = (candidates, plan.manifest.class_names, plan.protocol, config)
    score = Step(Scorer, scoring, pools.num_teachers, **network_resources(config))
    with Progress("evaluate", len(rows), "videos") as progress:
        for table in stream(blocks, cut, score):
            progress.advance(table.num_rows // len(candidates))
            yield from table.to_pylist()


def _register(
    plan: EvaluationPlan, network: TrainedNetwork, name: str, metrics: Mapping[str, float]
) -> None:
    """Log a network as a model of a run of its own, and make it a registered version."""
    recipe, config = network.recipe, plan.config
    with open_run(
        config,
        stage="evaluate",
        name=f"register {network.name}",
        key=sha256_of(f"{network.digest} {name}".encode()),
        sections=(),
        tags={"evaluated": network.name, "evaluated.sha256": network.digest},
    ) as run:
        run.log_model(
            ClipClassifier(network.network, motion_only=recipe.motion_only).eval(),
            clip_shape=recipe.clip_shape,
            metadata={"class_names": list(network.class_names), "run": network.name},
            metrics=metrics,
        )
    register_run(config, run.run_id, name)


def _track(plan: EvaluationPlan, network: TrainedNetwork, evaluation: Evaluation) -> TrackedRun:
    """Log the result of one network as a run of its own.

    Split and protocol are part of every metric's name: numbers of two never share a curve.
    """
    name, prefix = network.name, f"{plan.split}/{evaluation.protocol}"
    key = sha256_of(f"{plan.key} {name}".encode())
    role = "teacher" if name == TEACHER else "student"
    tags = {
        "evaluated": name,
        "evaluated.sha256": network.digest,
        "cache.root_digest": network.root_digest,
        "weights": evaluation.weights[name],
        "split": plan.split,
        "protocol": evaluation.protocol,
        "interval": evaluation.units.interval,
        "mlflow.runColor": COLOURS[role],
    }
    run = open_run(
        plan.config,
        stage="evaluate",
        name=f"{name} {evaluation.protocol}",
        key=key,
        sections=("evaluate",),
        tags=tags,
        reopen_finished=True,  # until the summary is written, the work is not done
    )
    with run:
        metrics = evaluation.metrics(name)
        _, low, high = evaluation.top1(name)
        metrics |= {} if low is None or high is None else {"top1_low": low, "top1_high": high}
        run.log_summary({f"{prefix}/{metric}": value for metric, value in metrics.items()})
        confusion, names, folder = evaluation.confusion(name), evaluation.class_names, plan.split
        run.log_figure(f"{folder}/confusion.png", confusion_figure(confusion, names))
        run.log_text(f"{folder}/per_class.csv", per_class_table(confusion, names))
        bins = {role: evaluation.calibration(name)}
        run.log_figure(f"{folder}/reliability.png", reliability_figure(bins))
        run.log_text(f"{folder}/evaluation.txt", evaluation.text)
        summary = files.readable_json(evaluation.summary).decode()
        run.log_text(f"{folder}/evaluation.json", summary)
        run.describe(f"{evaluation.note(name)}\n\nWeights: `{network.uri}`", trained=name)
        if network is plan.networks[-1]:
            table = f"```\n{evaluation.text}\n```\n\nResults: `{plan.folder}`"
            run.describe_experiment(f"{evaluation.headline}\n\n{table}")
        return run
