"""The facts of the page, part by part, without their looks. A part may be missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.config.schema import ExperimentConfig
from pipeline.errors import PipelineError
from pipeline.logits.examine import StoreFinding
from pipeline.results.evaluation import Evaluation

T = TypeVar("T")
CURVES = ("val/top1", "val/nll", "train/loss")
Curves = Mapping[str, Sequence[tuple[int, float]]]  # points (step, value) by metric


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of the page; one without a value is missing for a reason."""

    value: T | None
    reason: str = ""

    @classmethod
    def of(cls, make: Callable[[], T]) -> Part[T]:
        """Make a part. It is missing if a stage has not run yet, or an artefact is damaged."""
        try:
            return cls(make())
        except PipelineError as error:
            return cls(None, str(error))

    def get(self) -> T:
        """Return the value. Where it is missing, a part made from it is missing for its reason."""
        if self.value is None:
            raise PipelineError(self.reason)
        return self.value


@dataclass(frozen=True)
class Strip:
    """A film strip and its caption. ``image`` is a data URI, empty if the video is unreadable."""

    image: str
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

    @property
    def num_good(self) -> int:
        """Good videos of all splits."""
        return sum(good for good, _ in self.num_videos.values())


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
    top1: float  # the teacher's, over all good cells
    findings: tuple[StoreFinding, ...]
    hardest_classes: tuple[tuple[str, float], ...]

    @property
    def view_bytes(self) -> float:
        """Mean size of a view, with its proofs."""
        return self.num_bytes / max(self.num_good, 1)


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    name: str
    run_id: str
    seconds: float


@dataclass(frozen=True)
class Model:
    """A network of the comparison; its scores are in the evaluation, under its role."""

    role: str  # teacher, baseline or student
    num_parameters: int
    num_macs: int  # of one clip
    run: Part[Run]
    weights_digest: str
    curves: Part[Curves]
    unscored: str  # why it has no scores


@dataclass(frozen=True)
class Disagreement:
    """A video of val that teacher and student put into different classes."""

    strip: Strip
    true: str
    teacher: tuple[str, float]  # class and probability
    student: tuple[str, float]
    kl: float  # KL(teacher || student), nats


@dataclass(frozen=True)
class Facts:
    """All parts of the page."""

    config: ExperimentConfig
    dataset: Part[Dataset]
    store: Part[Store]
    models: tuple[Model, ...]  # teacher, VFL-Net, DVFL-Net
    evaluation: Evaluation  # of those that have scores, by role
    disagreements: Part[tuple[Disagreement, ...]]
