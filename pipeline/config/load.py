"""The schema of an experiment: one YAML file, read by every job of it.

``load_config(path, overrides)`` reads the file, applies ``section.key=value`` words from the
command line and checks everything at once. All problems are reported together, each with its
dotted path and, for a misspelt key, the nearest valid one.

Nothing here is derived: sums, products and scaled values live in the plans that stages print.
Nothing here is secret: credentials come from the environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.storage.files import absolute_uri, is_local, join_uri, read_parsed

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Variant = Literal["nano", "tiny", "small", "base"]
Layout = Literal["ucf101", "hmdb51", "folders", "path_label_csv", "kinetics_csv", "ssv2_json"]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VideoLimits(Section):
    """Guards on every open of a video file."""

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
    """Where the videos are, how they are annotated, and how much may be bad."""

    name: str
    root: str  # URI of the folder that the annotations' paths are relative to
    layout: Layout
    annotations: str | None = None  # URI of the lists; not needed for layout "folders"
    split_number: Annotated[int, Field(ge=1, le=3)] = 1  # of the official lists
    num_classes: Count
    min_frames: Count = 4
    max_failed_fraction: Fraction = 0.01
    generated: GeneratedConfig | None = None  # how jobs/generate_videos.py makes it
    limits: VideoLimits = VideoLimits()


class ClipConfig(Section):
    """The teacher's clip. A student may take every n-th frame and another side."""

    num_frames: Count = 8
    side: Annotated[int, Field(ge=32)] = 224
    motion_only: bool = False  # take each pixel's mean over the frames away


class ViewsConfig(Section):
    """The view policy: which looks at a video exist. Decides logits, so it is fingerprinted."""

    seed: int = 0
    num_views: Count = 8
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08  # share of the frame that a crop keeps
    max_area: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_aspect: Annotated[float, Field(ge=1.0)] = 4 / 3  # and 1 / max_aspect
    squash: bool = False  # aspects are around the picture's own, and evaluation sees all of it
    flip_probability: Fraction = 0.5  # 0 for classes that have a direction
    jitter_probability: Fraction = 0.8
    jitter_brightness: Fraction = 0.4
    jitter_contrast: Fraction = 0.4
    jitter_saturation: Fraction = 0.2
    jitter_hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1  # in turns
    jitter_per_frame: bool = False  # as published: new jitter for every frame, which flickers
    grey_probability: Fraction = 0.2


class FramesConfig(Section):
    """Where stages get their frames from, and how prepared frames are made."""

    source: Literal["videos", "prepared"] = "videos"
    uri: str | None = None  # of the frame store; null: <artefacts>/frames
    num_candidates: Count = 32  # frames that are kept of a video
    short_side: Annotated[int, Field(ge=32)] = 256  # in pixels; smaller pictures stay as they are
    quality: Annotated[int, Field(ge=1, le=100)] = 90  # of the JPEGs
    videos_per_unit: Count = 16
    units_per_file: Count = 16

    @property
    def content(self) -> dict[str, int]:
        """The settings that decide what a prepared frame looks like."""
        return {
            "num_candidates": self.num_candidates,
            "short_side": self.short_side,
            "quality": self.quality,
        }


class OptimConfig(Section):
    """Optimiser and schedule: linear warm-up, then one cosine down to ``min_lr_fraction``."""

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.1
    lr_batch_size: Count | None = 512  # lr is for this global batch and scales; null: lr as it is
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
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast, fp32 weights
    evaluate_every_epochs: Count = 1  # a checkpoint is written then, too
    log_every_steps: Count = 10
    audit_rate: Fraction = 1 / 64  # share of rows whose view is proved against the store
    num_loaders: Count = 2  # decoding processes a worker
    max_failures: NonNegative = 3  # restarts from the last checkpoint


class ModelConfig(Section):
    """A network of the family; ``embed_dim`` and ``depths`` make unpublished sizes."""

    variant: Variant
    embed_dim: Count | None = None
    depths: tuple[Count, Count, Count, Count] | None = None
    drop_path_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    init: Literal["scratch", "imagenet", "checkpoint"] = "scratch"  # where training starts
    init_weights: str | None = None  # URI of the file for imagenet or checkpoint
    init_head: Literal["keep", "new"] = "new"  # the head of that file
    preserve_image_function: bool = False  # imagenet: start with temporal modulators of one


class TeacherConfig(ModelConfig):
    """The teacher, how it is trained here (``optim``, ``train``) and how it is run."""

    variant: Variant = "base"
    weights: str | None = None  # URI; null: what train_teacher wrote for this experiment
    precision: Literal["float32", "bfloat16"] = "float32"  # of the cached forward passes
    min_top1: Fraction | None = None  # refuse a teacher that is worse on val
    label_smoothing: Fraction = 0.1
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()


class StudentConfig(ModelConfig):
    """The student; its clip may be smaller than the teacher's."""

    variant: Variant = "nano"
    num_frames: Count | None = None  # must divide clip.num_frames; null: the same
    side: Annotated[int, Field(ge=32)] | None = None  # null: clip.side


class StoreConfig(Section):
    """The logit store and the units it is made in."""

    uri: str | None = None  # null: <artefacts>/store
    format: Literal["zarr", "parquet"] = "zarr"
    clips_per_unit: Count = 64
    units_per_shard: Count = 128


class LossConfig(Section):
    """``loss = w * distill_loss + (1 - w) * label_loss``, with w = ``distill_weight``."""

    kind: Literal["forward_kl", "published"] = "forward_kl"  # "published" only shows the defect
    distill_weight: Fraction = 0.2
    temperature: Positive = 10.0
    label_smoothing: Fraction = 0.1


class SweepConfig(Section):
    """The grid of ``jobs/sweep_kl.py``; it trains a student for each weight, temperature, seed."""

    distill_weights: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.2, 0.5, 0.8)
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 5.0, 10.0)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)


class EvaluateConfig(Section):
    """Evaluation on val: one centre view of every video."""

    batch_size: Count = 8


class ClusterConfig(Section):
    """What the stages ask of Ray. None of it decides a logit but for its last bits."""

    num_decoders: Count = 2  # decoding actors of stage one, a process each
    num_teachers: Count = 1  # teacher actors
    teacher_batch_size: Count = 8
    teacher_threads: Count = 1  # of a teacher actor on CPU: n actors beat one with n threads
    num_workers: Count = 1  # Ray Train workers
    worker_threads: Count = 2  # of a worker on CPU
    use_gpu: bool = False
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = 1_000_000_000  # of a private Ray


class TrackingConfig(Section):
    """MLflow. Tracking never decides whether training lives."""

    uri: str | None = None  # null: sqlite:///mlflow.db beside the artefacts
    experiment: str | None = None  # null: dataset.name


class ExperimentConfig(Section):
    """One experiment."""

    artefacts: str  # URI of the folder that everything of this experiment is written to
    dataset: DatasetConfig
    clip: ClipConfig = ClipConfig()
    views: ViewsConfig = ViewsConfig()
    frames: FramesConfig = FramesConfig()
    teacher: TeacherConfig = TeacherConfig()
    store: StoreConfig = StoreConfig()
    student: StudentConfig = StudentConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _check_across_sections(self) -> ExperimentConfig:
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("\n  ".join(problems))
        return self

    @property
    def manifest_uri(self) -> str:
        """URI of the manifest of the videos."""
        return join_uri(self.artefacts, "manifest.parquet")

    @property
    def frames_uri(self) -> str:
        """URI of the frame store."""
        return self.frames.uri or join_uri(self.artefacts, "frames")

    @property
    def store_uri(self) -> str:
        """URI of the logit store."""
        return self.store.uri or join_uri(self.artefacts, "store")

    @property
    def teacher_weights_uri(self) -> str:
        """URI of the teacher's weights."""
        return self.teacher.weights or self.own_teacher_uri

    @property
    def own_teacher_uri(self) -> str:
        """URI of the teacher that is trained here."""
        return join_uri(self.artefacts, "teacher", "best.safetensors")

    @property
    def tracking_uri(self) -> str:
        """URI of the MLflow store or server."""
        return self.tracking.uri or f"sqlite:///{Path(self.artefacts).parent / 'mlflow.db'}"

    @property
    def baseline(self) -> ExperimentConfig:
        """The same experiment without distillation: its student is VFL-Net."""
        labels_alone = self.loss.model_copy(update={"distill_weight": 0.0})
        return self.model_copy(update={"loss": labels_alone})

    @property
    def student_num_frames(self) -> int:
        """Frames of the student's clip."""
        return self.student.num_frames or self.clip.num_frames

    @property
    def student_side(self) -> int:
        """Side of the student's clip, in pixels."""
        return self.student.side or self.clip.side


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read, override and check an experiment.

    Args:
        path: the YAML file.
        overrides: words ``section.key=value``; the value is read as YAML.

    Raises:
        ConfigError: with every problem found, not only the first.

    """
    return parse_config(_read_text(Path(path)), source=str(path), overrides=overrides)


def parse_config(text: str, *, source: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read, override and check an experiment that is at hand as YAML.

    Args:
        text: YAML.
        source: where it is from, for messages.
        overrides: words ``section.key=value``.

    Raises:
        ConfigError: with every problem found, not only the first.

    """
    values = _parse_yaml(text, source)
    problems = [problem for word in overrides if (problem := _apply_override(values, word))]
    try:
        config = ExperimentConfig.model_validate(values)
    except ValidationError as error:
        problems += [_explain(item) for item in error.errors()]
    if problems:
        raise ConfigError(
            f"{source} is not a valid experiment:\n" + "\n".join(f"  {p}" for p in problems)
        )
    return _with_absolute_uris(config)


def resolved_yaml(config: ExperimentConfig) -> str:
    """Write a config out in full; ``load_config`` of it gives an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_YamlDumper, sort_keys=False)


def flattened(config: ExperimentConfig) -> dict[str, Any]:
    """Flatten a config to dotted keys."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    visit("", config.model_dump(mode="json"))
    return flat


def _read_text(path: Path) -> str:
    try:
        return read_parsed(str(path)).decode()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no config file {path}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Yaml)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{source} must hold sections, found {type(values).__name__}")
    return values


MERGE = "tag:yaml.org,2002:merge"  # the key "<<"


class _Yaml(yaml.SafeLoader):
    """Reads 1e-4 as a number, which PyYAML takes for text, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != MERGE]  # merged keys may be given again
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)} given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


class _YamlDumper(yaml.SafeDumper):
    """Quotes a text that ``_Yaml`` would read as a number."""


def _add_exponent_floats(side: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    import re

    side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


_add_exponent_floats(_Yaml)
_add_exponent_floats(_YamlDumper)


def _apply_override(values: dict[str, Any], word: str) -> str | None:
    dotted, separator, text = word.partition("=")
    if not separator or not dotted:
        return f"override {word!r} is not of the form section.key=value"
    *parents, leaf = dotted.split(".")
    section = values
    for parent in parents:
        inner = section.get(parent, {})
        if not isinstance(inner, dict):
            return f"override {word!r}: {parent} holds a value, not a section"
        section[parent] = dict(inner)  # a copy: by a YAML alias two sections may be one object
        section = section[parent]
    try:
        section[leaf] = yaml.load(text, Loader=_Yaml)
    except yaml.YAMLError as error:
        return f"override {word!r}: {error}"
    return None


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], _keys_beside(location), n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        return f"{dotted}: there is no such key{hint}"
    if item["type"] == "missing":
        return f"{dotted}: is required"
    message = item["msg"].removeprefix("Value error, ")
    return f"{dotted}: {message}, found {item['input']!r}" if dotted else message


def _keys_beside(location: Iterable[str]) -> list[str]:
    section: type[BaseModel] = ExperimentConfig
    for name in list(location)[:-1]:
        field = section.model_fields.get(name)
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        section = models[0]
    return list(section.model_fields)


def _contradictions(config: ExperimentConfig) -> Iterable[str]:
    """Name settings that are each valid and make no sense together."""
    num_frames = config.student_num_frames
    if config.clip.num_frames % num_frames:
        whole = config.clip.num_frames
        yield f"student.num_frames: {num_frames} does not divide clip.num_frames {whole}"
    if config.views.min_area > config.views.max_area:
        smallest, largest = config.views.min_area, config.views.max_area
        yield f"views.min_area: {smallest} is over views.max_area {largest}"
    if config.frames.source == "prepared" and config.frames.num_candidates < config.clip.num_frames:
        few, wanted = config.frames.num_candidates, config.clip.num_frames
        yield f"frames.num_candidates: {few} is under clip.num_frames {wanted}"
    if config.dataset.layout != "folders" and config.dataset.annotations is None:
        yield f"dataset.annotations: is required for layout {config.dataset.layout}"
    if config.tracking.uri is None and not is_local(config.artefacts):
        yield f"tracking.uri: is required, there can be no database beside {config.artefacts}"
    for role, model in (("teacher", config.teacher), ("student", config.student)):
        if (model.init == "scratch") != (model.init_weights is None):
            yield f"{role}.init_weights: goes with init imagenet or checkpoint, and only with them"
    for role, train, optim in (
        ("", config.train, config.optim),
        ("teacher.", config.teacher.train, config.teacher.optim),
    ):
        if optim.warmup_epochs >= train.epochs:
            yield (
                f"{role}optim.warmup_epochs: {optim.warmup_epochs} leaves nothing of "
                f"{role}train.epochs {train.epochs}"
            )


def _with_absolute_uris(config: ExperimentConfig) -> ExperimentConfig:
    """Resolve relative paths and ``~`` once, here, so that no worker resolves them elsewhere."""

    def resolve(section: Any, *names: str) -> Any:
        found = {name: getattr(section, name) for name in names}
        return section.model_copy(
            update={name: absolute_uri(uri) for name, uri in found.items() if uri is not None}
        )

    return config.model_copy(
        update={
            "artefacts": absolute_uri(config.artefacts),
            "dataset": resolve(config.dataset, "root", "annotations"),
            "teacher": resolve(config.teacher, "weights", "init_weights"),
            "student": resolve(config.student, "init_weights"),
            "frames": resolve(config.frames, "uri"),
            "store": resolve(config.store, "uri"),
        }
    )
