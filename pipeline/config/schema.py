"""The schema of an experiment: settings of data, views, stores, cluster and tracking.

Nothing here is derived: sums, products and scaled values live in the plans that stages print.
Nothing here is secret: credentials come from the environment.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from pipeline.storage.files import absolute_uri

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class FileText(str):
    """Text of a YAML file. A path in it is relative to ``folder``, that of the file."""

    folder = ""


def absolute(value: Any) -> Any:
    """Make a path absolute once, so that no worker resolves it in another folder."""
    return absolute_uri(value, getattr(value, "folder", "")) if isinstance(value, str) else value


def count_or_auto(value: Any) -> Any:
    """Refuse what is neither; pydantic would give two messages, one for each kind."""
    if value != "auto" and not (isinstance(value, int) and value >= 1):
        raise ValueError("is an integer of at least 1, or auto")
    return value


CountOrAuto = Annotated[Count | Literal["auto"], BeforeValidator(count_or_auto)]
Uri = Annotated[str, BeforeValidator(absolute)]
NonNegative = Annotated[int, Field(ge=0)]
Layout = Literal["ucf101", "hmdb51", "folders", "path_label_csv", "kinetics_csv", "ssv2_json"]


class Section(BaseModel):
    """Base of all sections, which are immutable and refuse unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would take for 1 or 0."""
        assert info.field_name is not None
        values = value if isinstance(value, list | tuple) else [value]
        has_bool = any(isinstance(item, bool) for item in values)
        if has_bool and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("takes neither true nor false")
        return value


class VideoLimits(Section):
    """Limits on a video file; one that exceeds them is a bad video."""

    max_pixels: Count = 4096 * 2304
    """Width times height of a frame."""
    max_frames: Count = 20_000
    """Number of decoded frames."""
    max_duration_seconds: Positive = 600.0
    """Length of the video stream."""
    max_bytes: Count = 1_000_000_000
    """Size of the file."""
    decode_seconds: Positive = 60.0
    """Wall time for one visit to a video."""


class GeneratedConfig(Section):
    """A data set that is drawn, not filmed; see ``pipeline.dataset.generated.videos``."""

    kind: Literal["actions", "gestures"] = "actions"
    """What is drawn."""
    seed: int = 0
    """Seed of all that is drawn."""
    num_groups: Count
    """Scenes; each has videos of every class."""
    num_val_groups: Count
    """How many of the scenes are of val."""
    clips_per_group: Count
    """Videos a class and scene."""


class DatasetConfig(Section):
    """The videos, their annotations, and the share that may be bad."""

    name: str
    """The name in MLflow and in reports."""
    root: Uri
    """URI of the folder that the annotations' paths are relative to."""
    layout: Layout
    """How videos and labels are found; see docs/datasets.md."""
    annotations: Uri | None = None
    """URI of the lists; not needed for layout "folders"."""
    unlabelled: Uri | None = None
    """URI of a folder or list of more videos of train, without labels."""
    split_number: Annotated[int, Field(ge=1, le=3)] = 1
    """Which of the official lists."""
    num_classes: Count | None = None
    """Number of classes; null: as many as the annotations list."""
    groups: str = "auto"
    """Which videos are of one recording; see docs/datasets.md."""
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of train that is cut off as val, by recordings; null: the lists say what val is."""
    min_frames: Count = 4
    """A shorter video is bad."""
    max_failed_fraction: Fraction = 0.01
    """Share of videos that may be bad before a stage stops."""
    max_missing_fraction: Fraction | None = None
    """Share of videos that may be missing; null: they count as bad."""
    generated: GeneratedConfig | None = None
    """How jobs/generate_videos.py draws the videos."""
    limits: VideoLimits = VideoLimits()
    """Limits on a video file."""

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, groups: str) -> str:
        """Compile a regular expression; only that has a parenthesis."""
        try:
            if "(" in groups and re.compile(groups).groups != 1:
                raise ValueError("a regular expression needs exactly one group, as _g(\\d+) has")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return groups


class ClipConfig(Section):
    """The teacher's clip. A student may take fewer of its frames and another side."""

    num_frames: Count = 8
    """Frames of the teacher's clip."""
    side: Annotated[int, Field(ge=32)] = 224
    """Height and width of the teacher's clip in pixels."""
    motion_only: bool = False
    """Subtract each pixel's mean over the frames."""


class MixConfig(Section):
    """Mixed views: clips of train are mixed in pairs; the settings are the published ones."""

    probability: Fraction = 1.0
    """That a pair is mixed; else both clips stay as they are."""
    cutmix_probability: Fraction = 0.5
    """That a mixed pair is mixed by CutMix; else by mixup."""
    mixup_alpha: Positive = 0.8
    """In mixup, a clip's share is from Beta(alpha, alpha)."""
    cutmix_alpha: Positive = 1.0
    """In CutMix, a clip's share is from Beta(alpha, alpha)."""
    group_size: Annotated[int, Field(ge=2, le=1024)] = 32
    """Neighbouring videos that meet each other. A unit of stage one holds whole groups with all
    their views, so memory grows with it."""


class ViewsConfig(Section):
    """The view policy, which decides the views of a video, hence logits and fingerprint."""

    seed: int = 0
    """Seed of all draws."""
    num_views: Annotated[int, Field(ge=1, le=32_767)] = 8  # its numbers are of 16 bits
    """Training views of a video."""
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08
    """Least share of the picture that a crop keeps."""
    max_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Greatest share of the picture that a crop keeps."""
    max_aspect: Annotated[float, Field(ge=1.0)] = 4 / 3
    """Steepest aspect of a crop, wide or tall."""
    squash: bool = False
    """Crop aspects are relative to the picture's; evaluation takes all of it."""
    flip_probability: Fraction = 0.5
    """That a clip is flipped; 0 for classes that have a direction."""
    jitter_probability: Fraction = 0.8
    """That a clip has colour jitter."""
    jitter_brightness: Fraction = 0.4
    """The factor is uniform in 1 +- this."""
    jitter_contrast: Fraction = 0.4
    """The factor is uniform in 1 +- this."""
    jitter_saturation: Fraction = 0.2
    """The factor is uniform in 1 +- this."""
    jitter_hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """The hue turns by at most this, in whole turns."""
    jitter_per_frame: bool = False
    """As published: new jitter for every frame, which flickers."""
    grey_probability: Fraction = 0.2
    """That a clip is grey."""
    mix: MixConfig | None = None
    """Mixup and CutMix of pairs of clips: {} as published; null: none."""

    @property
    def content(self) -> dict[str, Any]:
        """The settings as they stand in identities and keys, which are older than ``mix``."""
        return self.model_dump(mode="json", exclude=None if self.mix else {"mix"})


class FramesConfig(Section):
    """The source of frames for all stages, and the settings of prepared frames."""

    source: Literal["videos", "prepared"] = "videos"
    """Video files, or what jobs/prepare_frames.py made of them."""
    uri: Uri | None = None
    """URI of the frame store; null: <artefacts>/frames."""
    num_candidates: Count = 32
    """Frames kept of a video."""
    short_side: Annotated[int, Field(ge=32)] = 256
    """Short side of a frame in pixels; smaller pictures stay as they are."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Quality of the JPEGs."""
    videos_per_unit: Count = 16
    """Videos that are prepared together."""
    units_per_file: Count = 16
    """Units of a file of the frame store."""

    @property
    def content(self) -> dict[str, int]:
        """The settings that decide what a prepared frame looks like."""
        return self.model_dump(include={"num_candidates", "short_side", "quality"})


class StoreConfig(Section):
    """The logit store and its units."""

    uri: Uri | None = None
    """URI of the logit store; null: <artefacts>/store."""
    format: Literal["zarr", "parquet"] = "zarr"
    """Format of the shards."""
    clips_per_unit: CountOrAuto = 64
    """Clips that are decoded, run and journalled together; auto: as the store there has it, and for
    a new one by size, see docs/clusters.md."""
    units_per_shard: Count = 128
    """Units of a shard, which is a file or an object an array."""


class EvaluateConfig(Section):
    """The forward passes over val in training, and over any split in an evaluation."""

    batch_size: Count = 8
    """Clips of a forward pass."""


class ClusterConfig(Section):
    """Resources of the stages on Ray. They change logits in the last bits at most."""

    num_decoders: CountOrAuto = 2
    """Decoding actors of stage one, a process each; auto: what feeds the teachers."""
    num_teachers: CountOrAuto = 1
    """Teacher actors; auto: all GPUs of the cluster, or the cores that decoders leave."""
    teacher_batch_size: Count = 8
    """Clips of a forward pass of stage one; even where clips are mixed. There is no auto: stores
    made with two sizes differ in the last bits."""
    teacher_threads: Count = 1
    """Threads of a teacher actor on CPU; n actors beat one with n threads."""
    num_workers: Count = 1
    """Ray Train workers; the global batch is this x train.batch_size x train.accumulate."""
    worker_threads: Count = 2
    """Threads of a training worker on CPU."""
    use_gpu: bool = False
    """One GPU for each teacher and worker."""
    wait_seconds: Annotated[float, Field(ge=0.0)] = 600.0
    """How long a job waits for CPUs and GPUs that others use."""
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = 1_000_000_000
    """Object store of a private Ray."""


class TrackingConfig(Section):
    """MLflow. A server that stops answering does not stop a job."""

    uri: str | None = None
    """URI of MLflow; null: sqlite:///mlflow.db beside the artefacts."""
    experiment: str | None = None
    """Name of the experiment in MLflow; null: dataset.name."""
    log_model: bool = True
    """Log each student as an exported program, which takes up to half a minute a run."""
