"""The schema of an experiment: every section and every setting of its YAML file.

Nothing here is derived: sums, products and scaled values live in the plans that stages print.
Nothing here is secret: credentials come from the environment.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from pipeline.storage.files import absolute_uri

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class FileText(str):
    """Text of a YAML file. A path in it is relative to ``folder``, that of the file."""

    folder = ""


def _absolute(value: Any) -> Any:
    """Make a path absolute once, so that no worker resolves it in another folder."""
    return absolute_uri(value, getattr(value, "folder", "")) if isinstance(value, str) else value


Uri = Annotated[str, BeforeValidator(_absolute)]
AS_DATASET = "as_dataset"  # the value of teacher.class_names that claims the data set's order
NonNegative = Annotated[int, Field(ge=0)]
DistillKind = Literal["forward_kl", "reverse_kl", "js", "dkd", "dist", "published"]
Variant = Literal["nano", "tiny", "small", "base"]
Layout = Literal["ucf101", "hmdb51", "folders", "path_label_csv", "kinetics_csv", "ssv2_json"]
PROGRAMS = (".pt2", ".onnx")  # suffixes of files that are a network with its weights


def _network(value: Any) -> Any:
    if str(value).endswith(PROGRAMS):
        return _absolute(value)
    if value != "videofocalnet" and not re.fullmatch(r"[\w.]+:[\w.]+", str(value)):
        suffixes = " or ".join(PROGRAMS)
        raise ValueError(f"is videofocalnet, package.module:function or a file ({suffixes})")
    return value


class Section(BaseModel):
    """Base of all sections, which are immutable and refuse unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VideoLimits(Section):
    """Limits on a video file; one that exceeds them is a bad video."""

    max_pixels: Count = 4096 * 2304  # width x height of one frame
    max_frames: Count = 20_000
    max_duration_seconds: Positive = 600.0
    max_bytes: Count = 1_000_000_000
    decode_seconds: Positive = 60.0  # wall time for one visit to a video


class GeneratedConfig(Section):
    """A data set that is drawn, not filmed; see ``pipeline.dataset.generated.videos``."""

    kind: Literal["actions", "gestures"] = "actions"  # what is drawn
    seed: int = 0
    num_groups: Count
    num_val_groups: Count
    clips_per_group: Count


class DatasetConfig(Section):
    """The videos, their annotations, and the share that may be bad."""

    name: str
    root: Uri  # URI of the folder that the annotations' paths are relative to
    layout: Layout
    annotations: Uri | None = None  # URI of the lists; not needed for layout "folders"
    unlabelled: Uri | None = None  # URI of a folder or list of more videos of train, without labels
    split_number: Annotated[int, Field(ge=1, le=3)] = 1  # of the official lists
    num_classes: Count | None = None  # null: as many as the annotations list
    groups: str = "auto"  # which videos are of one recording; see docs/datasets.md
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None  # of train, cut off as val
    min_frames: Count = 4
    max_failed_fraction: Fraction = 0.01
    max_missing_fraction: Fraction | None = None  # null: videos not found count as failed
    generated: GeneratedConfig | None = None  # how jobs/generate_videos.py makes it
    limits: VideoLimits = VideoLimits()

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
    """The teacher's clip. A student may take every n-th frame and another side."""

    num_frames: Count = 8
    side: Annotated[int, Field(ge=32)] = 224
    motion_only: bool = False  # subtract each pixel's mean over the frames


class MixConfig(Section):
    """Mixed views: clips of train are mixed in pairs; the settings are the published ones."""

    probability: Fraction = 1.0  # that a pair is mixed; else both clips stay as they are
    cutmix_probability: Fraction = 0.5  # of CutMix for a pair that is mixed; else mixup
    mixup_alpha: Positive = 0.8  # the share of a clip is from Beta(alpha, alpha)
    cutmix_alpha: Positive = 1.0
    # Neighbouring videos that meet each other. A unit of stage one holds whole groups with all
    # their views, so memory grows with it.
    group_size: Annotated[int, Field(ge=2, le=1024)] = 32


class ViewsConfig(Section):
    """The view policy, which decides the views of a video, hence logits and fingerprint."""

    seed: int = 0
    num_views: Count = 8
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08  # share of the frame that a crop keeps
    max_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_aspect: Annotated[float, Field(ge=1.0)] = 4 / 3  # and 1 / max_aspect
    squash: bool = False  # crop aspects are relative to the picture's; evaluation takes all of it
    flip_probability: Fraction = 0.5  # 0 for classes that have a direction
    jitter_probability: Fraction = 0.8
    jitter_brightness: Fraction = 0.4
    jitter_contrast: Fraction = 0.4
    jitter_saturation: Fraction = 0.2
    jitter_hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1  # in turns
    jitter_per_frame: bool = False  # as published: new jitter for every frame, which flickers
    grey_probability: Fraction = 0.2
    mix: MixConfig | None = None  # mix: {} mixes as published; null: not at all

    @property
    def content(self) -> dict[str, Any]:
        """The settings as they stand in identities and keys, which are older than ``mix``."""
        return self.model_dump(mode="json", exclude=None if self.mix else {"mix"})


class FramesConfig(Section):
    """The source of frames for all stages, and the settings of prepared frames."""

    source: Literal["videos", "prepared"] = "videos"
    uri: Uri | None = None  # of the frame store; null: <artefacts>/frames
    num_candidates: Count = 32  # frames kept of a video
    short_side: Annotated[int, Field(ge=32)] = 256  # in pixels; smaller pictures stay as they are
    quality: Annotated[int, Field(ge=1, le=100)] = 90  # of the JPEGs
    videos_per_unit: Count = 16
    units_per_file: Count = 16

    @property
    def content(self) -> dict[str, int]:
        """The settings that decide what a prepared frame looks like."""
        return self.model_dump(include={"num_candidates", "short_side", "quality"})


class OptimConfig(Section):
    """Optimiser and schedule: linear warm-up, then one cosine down to ``min_lr_fraction``."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.1
    lr_batch_size: Count | None = 512  # lr is scaled from this global batch size; null: it is not
    momentum: Fraction = 0.9  # sgd, Nesterov
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # adamw
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4  # not on biases and other 1-D tensors
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 20.0
    min_lr_fraction: Fraction = 0.01  # of the peak; also where the warm-up starts
    max_grad_norm: Positive = 5.0


class TrainConfig(Section):
    """The training loop."""

    seed: int = 0
    epochs: Count = 120
    batch_size: Count = 8  # a worker
    accumulate: Count = 1  # batches of a worker whose gradients make one step
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast, fp32 weights
    evaluate_every_epochs: Count = 1  # and writes a checkpoint
    log_every_steps: Count = 10
    audit_rate: Fraction = 1 / 64  # share of rows whose proof of view is checked
    num_loaders: Count = 2  # decoding processes a worker
    max_failures: NonNegative = 3  # restarts from the last checkpoint
    # The weights that are evaluated, exported, registered, published: of the last epoch, or of the
    # epoch that is best on val, whose figures on val are then too good.
    selection: Literal["last", "best"] = "last"
    # What few labels are worth: a draw of the videos of each class keeps its labels, the others are
    # as if they had none.
    labels_per_class: Count | None = None  # null: all that there are
    labels_seed: int | None = None  # of the draw; null: seed
    learn_from: Literal["all", "labelled"] = "all"  # labelled: no video without a label


class ModelConfig(Section):
    """A network. ``variant``, ``embed_dim`` and ``depths`` are for Video-FocalNets only."""

    # videofocalnet, or package.module:function, or a program file; see docs/networks.md
    network: Annotated[str, BeforeValidator(_network)] = "videofocalnet"
    variant: Variant
    embed_dim: Count | None = None
    depths: tuple[Count, Count, Count, Count] | None = None
    drop_path_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    init: Literal["scratch", "imagenet", "checkpoint"] = "scratch"  # where training starts
    init_weights: Uri | None = None  # URI of the file for imagenet or checkpoint
    init_head: Literal["keep", "new"] = "new"  # the head of that file
    preserve_image_function: bool = False  # imagenet: start with temporal modulators of one

    @property
    def foreign(self) -> bool:
        return self.network != "videofocalnet"

    @property
    def is_program(self) -> bool:
        return self.network.endswith(PROGRAMS)

    @property
    def title(self) -> str:
        """Its variant, or the name of its function, or the kind of its program file."""
        if self.is_program:
            return self.network.rpartition(".")[2]
        return self.network.rpartition(":")[2] if self.foreign else self.variant

    @property
    def network_identity(self) -> str:
        """The network's name in identities; of a program only its kind, so its file may move."""
        return self.title if self.is_program else self.network


class TeacherConfig(ModelConfig):
    """The teacher: how it is trained here (``optim``, ``train``) and how it is run."""

    variant: Variant = "base"
    weights: Uri | None = None  # null: the file that train_teacher wrote for this experiment
    # Classes of the head of a weights file that names none, as published .pth files do: a list, the
    # URI of a text file with a name a line, or as_dataset.
    class_names: tuple[str, ...] | Literal["as_dataset"] | Uri | None = None
    seen: tuple[Uri, ...] = ()  # lists of its training videos: a path a line, or path and label
    precision: Literal["float32", "bfloat16"] = "float32"  # of the cached forward passes
    min_top1: Fraction | None = None  # refuse a teacher that is worse on val
    label_smoothing: Fraction = 0.1
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()

    @property
    def brings_weights(self) -> bool:
        """True if no weights file is needed: a program holds its weights, a function makes them."""
        named = self.class_names is not None
        return self.is_program or (self.foreign and self.weights is None and named)


class StudentConfig(ModelConfig):
    """The student; its clip may be smaller than the teacher's."""

    variant: Variant = "nano"
    num_frames: Count | None = None  # must divide clip.num_frames; null: the same
    side: Annotated[int, Field(ge=32)] | None = None  # null: clip.side


class StoreConfig(Section):
    """The logit store and its units."""

    uri: Uri | None = None  # null: <artefacts>/store
    format: Literal["zarr", "parquet"] = "zarr"
    clips_per_unit: Count = 64
    units_per_shard: Count = 128


class LossConfig(Section):
    """``loss = w * distill_loss + (1 - w) * label_loss``, with w = ``distill_weight``."""

    kind: DistillKind = "forward_kl"  # see dvflnet.losses; "published" only shows a defect
    standardise: bool = False  # the logits of each row to mean 0 and variance 1, before temperature
    distill_weight: Fraction = 0.2
    temperature: Positive = 10.0
    label_smoothing: Fraction = 0.1
    dkd_alpha: Annotated[float, Field(ge=0.0)] | None = None  # of kind dkd alone; null: 1
    dkd_beta: Annotated[float, Field(ge=0.0)] | None = None  # of kind dkd alone; null: 8


class SweepConfig(Section):
    """The grid of ``jobs/sweep.py``: a student for each kind, weight, temperature and seed."""

    kinds: tuple[DistillKind, ...] = ()  # of distill loss; none: loss.kind
    distill_weights: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.2, 0.5, 0.8)
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 5.0, 10.0)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)


class EvaluateConfig(Section):
    """The forward passes over val in training, and over any split in an evaluation."""

    batch_size: Count = 8


class ClusterConfig(Section):
    """Resources of the stages on Ray. They change logits in the last bits at most."""

    num_decoders: Count = 2  # decoding actors of stage one, a process each
    num_teachers: Count = 1  # teacher actors
    teacher_batch_size: Count = 8
    teacher_threads: Count = 1  # of a teacher actor on CPU: n actors beat one with n threads
    num_workers: Count = 1  # Ray Train workers; the global batch is this times train.batch_size
    worker_threads: Count = 2  # of a worker on CPU
    use_gpu: bool = False
    wait_seconds: Annotated[float, Field(ge=0.0)] = 600.0  # for CPUs and GPUs that others use
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = 1_000_000_000  # of a private Ray


class TrackingConfig(Section):
    """MLflow. A server that stops answering does not stop a job."""

    uri: str | None = None  # null: sqlite:///mlflow.db beside the artefacts
    experiment: str | None = None  # null: dataset.name
    log_model: bool = True  # a student's exported program, which takes up to half a minute a run
