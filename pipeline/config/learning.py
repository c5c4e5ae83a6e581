"""The settings of networks, losses and training."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from pipeline.config.schema import Count, Fraction, NonNegative, Positive, Section, Uri, absolute

AS_DATASET = "as_dataset"  # the value of teacher.class_names that claims the data set's order
DistillKind = Literal["forward_kl", "reverse_kl", "js", "dkd", "dist", "published"]
Variant = Literal["nano", "tiny", "small", "base"]
PROGRAMS = (".pt2", ".onnx")  # suffixes of files that are a network with its weights


def _network(value: Any) -> Any:
    if str(value).endswith(PROGRAMS):
        return absolute(value)
    if value != "videofocalnet" and not re.fullmatch(r"[\w.]+:[\w.]+", str(value)):
        suffixes = " or ".join(PROGRAMS)
        raise ValueError(f"is videofocalnet, package.module:function or a file ({suffixes})")
    return value


class OptimConfig(Section):
    """Optimiser and schedule: linear warm-up, then one cosine down to ``min_lr_fraction``."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: Positive = 0.1
    """Peak of the learning rate."""
    lr_batch_size: Count | None = 512
    """The global batch size that lr is for; null: lr is not scaled."""
    momentum: Fraction = 0.9
    """Nesterov momentum of sgd."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Of adamw."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    """Weight decay, but not of biases and other 1-D tensors."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 20.0
    """Epochs in which the rate rises linearly."""
    min_lr_fraction: Fraction = 0.01
    """Last rate as a part of the peak; the warm-up starts there, too."""
    max_grad_norm: Positive = 5.0
    """Larger gradients are scaled down to it."""


class TrainConfig(Section):
    """The training loop."""

    seed: int = 0
    """Seed of weights, order, drop path and audit."""
    epochs: Count = 120
    """Passes over the videos of train."""
    fresh_views: bool = False
    """A student of labels alone sees new views in each epoch, and not those of the store again."""
    batch_size: Count = 8
    """Clips of a worker's batch."""
    accumulate: Count = 1
    """Batches of a worker whose gradients make one step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast, with weights in float32."""
    compile: bool = False
    """Compile the network (torch.compile): minutes once, then faster steps."""
    checkpoint_activations: bool = False
    """Compute a Video-FocalNet's blocks again in the backward pass: less memory, longer steps."""
    evaluate_every_epochs: Count = 1
    """Epochs after which val is evaluated and a checkpoint is written."""
    log_every_steps: Count = 10
    """Steps whose mean is one point of a curve. On a GPU losses are read and checked as often."""
    audit_rate: Fraction = 1 / 64
    """Share of rows whose proof of view is checked."""
    num_loaders: Count = 2
    """Decoding processes a worker."""
    max_failures: NonNegative = 3
    """Restarts from the last checkpoint before a run fails."""
    selection: Literal["last", "best"] = "last"
    """The weights that are evaluated, exported, registered, published: of the last epoch, or of the
    epoch that is best on val, whose figures on val are then too good."""
    labels_per_class: Count | None = None
    """What few labels are worth: a draw of the videos of each class keeps its labels, the others
    are as if they had none. null: all that there are."""
    labels_seed: int | None = None
    """Seed of the draw of labels_per_class; null: seed."""
    learn_from: Literal["all", "labelled"] = "all"
    """labelled: leave out videos without a label."""


class ModelConfig(Section):
    """A network. ``variant``, ``embed_dim`` and ``depths`` are for Video-FocalNets only."""

    network: Annotated[str, BeforeValidator(_network)] = "videofocalnet"
    """videofocalnet, or package.module:function, or a program file; see docs/networks.md."""
    variant: Variant
    """Of the published networks."""
    embed_dim: Count | None = None
    """Channels of the first stage; null: the variant's."""
    depths: tuple[Count, Count, Count, Count] | None = None
    """Blocks of the four stages; null: the variant's."""
    drop_path_rate: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Drop path of the last block; it grows from 0."""
    init: Literal["scratch", "imagenet", "checkpoint"] = "scratch"
    """Where training starts."""
    init_weights: Uri | None = None
    """URI of the file for imagenet or checkpoint."""
    init_head: Literal["keep", "new"] = "new"
    """Keep the head of that file, or start with a new one."""
    preserve_image_function: bool = False
    """For imagenet: start with temporal modulators of one."""

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
    """Of the published networks."""
    weights: Uri | None = None
    """Weights file; null: what train_teacher wrote for this experiment."""
    class_names: tuple[str, ...] | Literal["as_dataset"] | Uri | None = None
    """Classes of the head of a weights file that names none, as published .pth files do: a list,
    the URI of a text file with a name a line, or as_dataset."""
    seen: tuple[Uri, ...] = ()
    """Lists of its training videos: a path a line, or path and label."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the cached forward passes."""
    min_top1: Fraction | None = None
    """Refuse a teacher that is worse on val."""
    label_smoothing: Fraction = 0.1
    """Label smoothing of its training."""
    optim: OptimConfig = OptimConfig()
    """Optimiser of its training."""
    train: TrainConfig = TrainConfig()
    """Loop of its training."""

    @property
    def brings_weights(self) -> bool:
        """True if no weights file is needed: a program holds its weights, a function makes them."""
        named = self.class_names is not None
        return self.is_program or (self.foreign and self.weights is None and named)


class StudentConfig(ModelConfig):
    """The student; its clip may be smaller than the teacher's."""

    variant: Variant = "nano"
    """Of the published networks."""
    num_frames: Count | None = None
    """Frames of its clip, which divide clip.num_frames; null: all."""
    side: Annotated[int, Field(ge=32)] | None = None
    """Side of its clip in pixels; null: clip.side."""


class LossConfig(Section):
    """``loss = w * distill_loss + (1 - w) * label_loss``, with w = ``distill_weight``."""

    kind: DistillKind = "forward_kl"
    """Kind of distill loss, see dvflnet.losses; published only shows a defect."""
    standardise: bool = False
    """The logits of each row to mean 0 and variance 1, before temperature."""
    distill_weight: Fraction = 0.2
    """The weight w; 0: labels alone, which is VFL-Net."""
    temperature: Positive = 10.0
    """Temperature of the distill loss."""
    label_smoothing: Fraction = 0.1
    """Label smoothing of the label loss."""
    dkd_alpha: Annotated[float, Field(ge=0.0)] | None = None
    """Weight of dkd's label against the rest; null: 1."""
    dkd_beta: Annotated[float, Field(ge=0.0)] | None = None
    """Weight of dkd's classes among the rest; null: 8."""


class SweepConfig(Section):
    """The grid of ``jobs/sweep.py``: a student for each kind, weight, temperature and seed."""

    kinds: tuple[DistillKind, ...] = ()
    """Values of loss.kind; none: its own."""
    distill_weights: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.0, 0.2, 0.5, 0.8)
    """Values of loss.distill_weight."""
    temperatures: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 5.0, 10.0)
    """Values of loss.temperature."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    """Values of train.seed."""
