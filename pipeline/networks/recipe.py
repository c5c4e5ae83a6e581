"""Recipes: network, clips, loss and optimiser of a training run.

Teacher and student go through the same loop and differ in their recipes alone. The teacher learns
from labels, with views of its own that never repeat; the student learns from the views in the logit
store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import LossConfig, ModelConfig, OptimConfig, TrainConfig
from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.views.view import EVALUATION_VIEW, View, build_view, keyed_hash, view_for_epoch

FRESH_VIEWS = 10_000  # more than a run shows of one video


@dataclass(frozen=True)
class Recipe:
    """A training run without its videos and targets.

    ``num_frames`` counts the frames of a view; the network sees one in ``frame_stride`` of them.
    """

    role: Literal["teacher", "student"]
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig
    train: TrainConfig
    policy: ViewsConfig
    num_views: int
    num_frames: int
    frame_stride: int
    side: int
    motion_only: bool

    @property
    def clip_num_frames(self) -> int:
        return self.num_frames // self.frame_stride

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:  # (T, H, W, 3)
        return self.clip_num_frames, self.side, self.side, 3

    def view_index(self, name: str, epoch: int) -> int:
        """Return the view that a video, or a mix group, shows in an epoch."""
        return view_for_epoch(epoch, name, self.num_views, seed=self.policy.seed)

    def view(self, record: VideoRecord, view_index: int) -> View:
        return build_view(self.policy, record, view_index, num_frames=self.num_frames)

    def evaluation_view(self, record: VideoRecord) -> View:
        return self.view(record, EVALUATION_VIEW)


def student_recipe(config: ExperimentConfig) -> Recipe:
    """Describe the student's training; ``loss.distill_weight`` 0 makes it the VFL-Net baseline."""
    policy, num_views = config.views, config.views.num_views
    if config.train.fresh_views and not config.loss.distill_weight:
        policy, num_views = _own_views(policy, "student"), FRESH_VIEWS
    return Recipe(
        role="student",
        model=config.student,
        loss=config.loss,
        optim=config.optim,
        train=config.train,
        policy=policy,
        num_views=num_views,
        num_frames=config.clip.num_frames,
        frame_stride=config.clip.num_frames // config.student_num_frames,
        side=config.student_side,
        motion_only=config.clip.motion_only,
    )


def teacher_recipe(config: ExperimentConfig) -> Recipe:
    """Describe the teacher's training: labels alone, and a view of its own for every epoch.

    The views have another seed than the cached ones, so that the store does not hold the very clips
    that the teacher was trained on.
    """
    teacher = config.teacher
    return Recipe(
        role="teacher",
        model=teacher,
        loss=LossConfig(distill_weight=0.0, label_smoothing=teacher.label_smoothing),
        optim=teacher.optim,
        train=teacher.train,
        policy=_own_views(config.views, "teacher"),
        num_views=teacher.train.epochs + 1,
        num_frames=config.clip.num_frames,
        frame_stride=1,
        side=config.clip.side,
        motion_only=config.clip.motion_only,
    )


def _own_views(policy: ViewsConfig, role: str) -> ViewsConfig:
    """Return the policy with a seed of its own, so that no view is one of the store."""
    return policy.model_copy(update={"seed": keyed_hash(policy.seed, role) % 2**31})
