"""What the report says, part by part; nothing here is about looks, or about where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import ExperimentConfig
from pipeline.logits.examine import Finding
from pipeline.results.bootstrap import Interval, bootstrap_interval

CURVES = ("val/top1", "val/nll", "train/loss")


@dataclass(frozen=True)
class Missing:
    """A part that is not there, and why."""

    reason: str


@dataclass(frozen=True)
class Strip:
    """A film strip and what stands below it."""

    image: str  # data URI
    caption: str


@dataclass(frozen=True)
class Dataset:
    """The data set card."""

    name: str
    digest: str
    source: str
    class_names: tuple[str, ...]
    num_videos: Mapping[str, tuple[int, int]]  # by split: good ones, all
    class_counts: Mapping[str, Sequence[int]]  # by split: good videos of each class
    seconds: float
    num_bytes: int
    bad: tuple[str, ...]  # why videos are bad, counted
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Store:
    """The logit store and its health."""

    fingerprint: str
    root_digest: str
    format: str
    num_files: int
    num_bytes: int
    num_good: int
    num_wanted: int
    num_views: int
    sealed_at: str
    run_id: str
    teacher: Mapping[str, Any]
    train_top1: float  # the teacher's, over all good cells
    findings: tuple[Finding, ...]
    hardest_classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Cost:
    """What one network costs, for one clip."""

    num_parameters: int
    num_macs: int


@dataclass(frozen=True)
class Scores:
    """How good a network is on val, and on which videos it is right."""

    metrics: Mapping[str, float]
    confusion: NDArray[np.int64]  # (K, K), true by predicted
    right: NDArray[np.bool_]  # (N,)

    @property
    def interval(self) -> Interval:
        """Top-1 with its interval over videos."""
        return bootstrap_interval(self.right.astype(float))


@dataclass(frozen=True)
class Model:
    """A network of the comparison. ``role`` is teacher, baseline or student."""

    role: str
    title: str
    cost: Cost
    scores: Scores | Missing
    run: str  # name, or why there is none
    run_id: str
    weights_digest: str
    seconds: float | None
    curves: Mapping[str, Sequence[tuple[int, float]]] | Missing


@dataclass(frozen=True)
class Disagreement:
    """A video of val of which teacher and student say different things."""

    strip: Strip
    true: str
    teacher: tuple[str, float]
    student: tuple[str, float]
    kl: float  # KL(teacher || student), nats


@dataclass(frozen=True)
class Facts:
    """All parts of the page."""

    config: ExperimentConfig
    dataset: Dataset | Missing
    store: Store | Missing
    models: tuple[Model, ...]  # teacher, VFL-Net, DVFL-Net
    num_val: int
    disagreements: tuple[Disagreement, ...] | Missing


def gain_over(better: Scores, worse: Scores) -> Interval:
    """Return the difference of top-1 with its interval; both have seen the same videos."""
    return bootstrap_interval(better.right.astype(float) - worse.right.astype(float))
