"""One experiment: all sections of its YAML file, derived URIs, and checks across sections."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from pydantic import model_validator

from pipeline.config import learning
from pipeline.config import schema as sections
from pipeline.config.schema import Section, Uri
from pipeline.storage.files import is_local, join_uri


class ExperimentConfig(Section):
    """One experiment."""

    artefacts: Uri
    """URI of the folder that everything of this experiment is written to."""
    dataset: sections.DatasetConfig
    clip: sections.ClipConfig = sections.ClipConfig()
    views: sections.ViewsConfig = sections.ViewsConfig()
    frames: sections.FramesConfig = sections.FramesConfig()
    teacher: learning.TeacherConfig = learning.TeacherConfig()
    store: sections.StoreConfig = sections.StoreConfig()
    student: learning.StudentConfig = learning.StudentConfig()
    loss: learning.LossConfig = learning.LossConfig()
    optim: learning.OptimConfig = learning.OptimConfig()
    train: learning.TrainConfig = learning.TrainConfig()
    sweep: learning.SweepConfig = learning.SweepConfig()
    evaluate: sections.EvaluateConfig = sections.EvaluateConfig()
    cluster: sections.ClusterConfig = sections.ClusterConfig()
    tracking: sections.TrackingConfig = sections.TrackingConfig()

    @model_validator(mode="after")
    def _check_across_sections(self) -> ExperimentConfig:
        if problems := list(_contradictions(self)):
            raise ValueError("\n  ".join(problems))
        return self

    @property
    def manifest_uri(self) -> str:
        return join_uri(self.artefacts, "manifest.parquet")

    @property
    def frames_uri(self) -> str:
        return self.frames.uri or join_uri(self.artefacts, "frames")

    @property
    def store_uri(self) -> str:
        return self.store.uri or join_uri(self.artefacts, "store")

    @property
    def teacher_weights_uri(self) -> str:
        return self.teacher.weights or self.own_teacher_uri

    @property
    def own_teacher_uri(self) -> str:
        return join_uri(self.artefacts, "teacher", f"{self.teacher.train.selection}.safetensors")

    @property
    def tracking_uri(self) -> str:
        """URI of an MLflow server, or of a SQLite file whose path is percent-quoted."""
        return self.tracking.uri or f"sqlite:///{quote(str(Path(self.artefacts).parent))}/mlflow.db"

    @property
    def baseline(self) -> ExperimentConfig:
        """The same experiment without distillation: its student is VFL-Net.

        Its distill loss has weight 0, so the settings of that loss are the defaults.
        """
        smoothing, temperature = self.loss.label_smoothing, self.loss.temperature
        labels_alone = learning.LossConfig(
            distill_weight=0.0, temperature=temperature, label_smoothing=smoothing
        )
        return self.model_copy(update={"loss": labels_alone})

    @property
    def students(self) -> dict[str, ExperimentConfig]:
        """The students that are compared, by title, the experiment's own last.

        Where labels are held back there are two more: of all labels, and of labelled videos alone.
        """
        few, labelled = self.train, self.train.model_copy(update={"learn_from": "labelled"})
        whole = few.model_copy(update={"labels_per_class": None})
        students = {"VFL-Net (labels)": self.baseline}
        if few.labels_per_class is not None:
            students["VFL-Net (all labels)"] = self.baseline.model_copy(update={"train": whole})
            if self.views.mix is None:  # else their clips are mixed with those of the others
                students["DVFL-Net (labelled)"] = self.model_copy(update={"train": labelled})
        return students | {"DVFL-Net (cache)": self}

    @property
    def student_num_frames(self) -> int:
        return self.student.num_frames or self.clip.num_frames

    @property
    def student_side(self) -> int:
        return self.student.side or self.clip.side


def _contradictions(config: ExperimentConfig) -> Iterable[str]:
    """Yield a message for each pair of settings that contradict each other."""
    whole, frames, views = config.clip.num_frames, config.frames, config.views
    if whole % (num_frames := config.student_num_frames):
        yield f"student.num_frames: {num_frames} does not divide clip.num_frames {whole}"
    if views.min_area > views.max_area:
        yield f"views.min_area: {views.min_area} is over views.max_area {views.max_area}"
    if frames.source == "prepared" and frames.num_candidates < whole:
        yield f"frames.num_candidates: {frames.num_candidates} is under clip.num_frames {whole}"
    if config.dataset.layout != "folders" and config.dataset.annotations is None:
        yield f"dataset.annotations: is required for layout {config.dataset.layout}"
    if config.loss.kind != "dkd" and (config.loss.dkd_alpha, config.loss.dkd_beta) != (None, None):
        yield f"loss.dkd_alpha, loss.dkd_beta: go with kind dkd, not with {config.loss.kind}"
    if views.mix is not None and "dkd" in (config.loss.kind, *config.sweep.kinds):
        yield "loss.kind: dkd needs one label a clip; with views.mix a clip has two"
    if views.mix is not None and config.cluster.teacher_batch_size % 2:
        yield "cluster.teacher_batch_size: is even where views.mix mixes pairs of clips"
    if config.tracking.uri is None and not is_local(config.artefacts):
        yield f"tracking.uri: is required, there can be no database beside {config.artefacts}"
    for role, model in (("teacher", config.teacher), ("student", config.student)):
        if (model.init == "scratch") != (model.init_weights is None):
            yield f"{role}.init_weights: goes with init imagenet or checkpoint, and only with them"
        if model.foreign and model.init != "scratch":
            yield f"{role}.init: {model.network} starts from the weights that its function gives it"
        if model.foreign and (model.embed_dim or model.depths or model.drop_path_rate):
            yield f"{role}.embed_dim, depths and drop_path_rate are not of {model.network}"
    if config.student.is_program:
        yield f"student.network: {config.student.network} is a program, which cannot be trained"
    if config.teacher.is_program and config.teacher.weights is not None:
        yield f"teacher.weights: {config.teacher.network} holds its weights itself"
    if config.teacher.is_program and config.teacher.precision != "float32":
        yield f"teacher.precision: {config.teacher.network} runs as it is: float32"
    for role, model, train, optim in (
        ("", config.student, config.train, config.optim),
        ("teacher.", config.teacher, config.teacher.train, config.teacher.optim),
    ):
        if model.foreign and train.checkpoint_activations:
            yield f"{role}train.checkpoint_activations: is for Video-FocalNets, not {model.network}"
        if (warmup := optim.warmup_epochs) >= train.epochs:
            left = f"leaves nothing of {role}train.epochs {train.epochs}"
            yield f"{role}optim.warmup_epochs: {warmup} {left}"
