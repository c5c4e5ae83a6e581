"""A network ready to run, with its recipe, config and classes, from its weights file.

Training writes the resolved config and the class names into the file, for evaluation, prediction
and export. A file that was trained elsewhere has neither; an experiment's config describes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import torch
from torch import nn

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import parse_config
from pipeline.dataset.folders import shorten
from pipeline.errors import WeightsMismatch
from pipeline.networks.build import load_network, network_digest, sizes_of
from pipeline.networks.class_order import read_ordered
from pipeline.networks.forward import ClipNetwork
from pipeline.networks.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.networks.teacher import read_teacher
from pipeline.networks.weight_files import WeightFile, read_weights

TEACHER = "teacher"  # the name of the network whose logits the others are compared with


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, and the run that trained it.

    ``config`` and ``recipe`` are those of training, or those that describe a file from elsewhere;
    the recipe also cuts the network's clips. ``name`` is the run's, ``root_digest`` that of the
    store that it learned from (empty for a teacher), ``digest`` that of the weights.
    """

    name: str
    uri: str
    network: nn.Module
    config: ExperimentConfig
    recipe: Recipe
    class_names: tuple[str, ...]
    digest: str
    root_digest: str = ""
    stripped: str = ""  # the prefix that the names of its tensors lost

    @property
    def title(self) -> str:
        lost = f" ({self.stripped!r} stripped from all names)"
        return self.name + (lost if self.stripped else "")

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        if self.class_names != class_names:
            raise WeightsMismatch(
                f"{self.uri} tells {len(self.class_names)} classes apart, and they are not those "
                f"of the manifest ({len(class_names)}), or in another order."
            )

    def on(self, device: torch.device, *, precision: str | None = None) -> ClipNetwork:
        """Move the network to a device, to run there in its own precision or in another one.

        A teacher's own precision is that of its cached logits, and not that of its training.
        """
        teacher, recipe = self.config.teacher, self.recipe
        own = teacher.precision if recipe.role == "teacher" else recipe.train.precision
        return ClipNetwork(self.network.to(device), device, precision or own, recipe.motion_only)


def load_trained(
    uri: str, config: ExperimentConfig | None = None, class_names: tuple[str, ...] = ()
) -> TrainedNetwork:
    """Load a network from its file alone; one that was trained elsewhere needs ``config``, too.

    A file that does not describe itself is taken for the teacher or the student of ``config``,
    whichever has the sizes of its tensors. ``class_names`` are those of the data set.

    Raises:
        WeightsMismatch: if the file is missing or damaged, or nothing describes its network.
    """
    file = read_weights(uri)
    if "config" in file.metadata and file.class_names:
        own = parse_config(file.metadata["config"], source=uri)
        root_digest = file.metadata.get("root_digest", "")
        # A student's file names a store, even if it learnt from labels alone; a teacher's does not.
        recipe = student_recipe(own) if root_digest else teacher_recipe(own)
        return _build(file.metadata.get("run", uri), file, own, recipe, root_digest)
    if config is None:
        raise WeightsMismatch(
            f"{uri} does not say how it was trained: there is no config or no class names in it. "
            "Give a best.safetensors or last.safetensors that train_student or train_teacher "
            "wrote, or the config of an experiment whose teacher or student it is."
        )
    if _is_teacher(file, config):
        teacher = config.teacher.model_copy(update={"weights": uri})
        return load_teacher(config.model_copy(update={"teacher": teacher}), class_names)
    file = read_ordered(uri, config, config.student, class_names)
    return _build(PurePosixPath(uri).stem, file, config, student_recipe(config))


def load_teacher(config: ExperimentConfig, class_names: tuple[str, ...]) -> TrainedNetwork:
    """Load the teacher of an experiment, trained here or elsewhere.

    Raises:
        WeightsMismatch: if its weights are not there or do not fit, or their classes do not.
    """
    file = read_teacher(config, class_names)
    return _build(TEACHER, file, config, teacher_recipe(config))


def _build(
    name: str, file: WeightFile, config: ExperimentConfig, recipe: Recipe, root_digest: str = ""
) -> TrainedNetwork:
    network = load_network(recipe.model, file, num_frames=recipe.clip_num_frames)
    names, digest = file.class_names, network_digest(recipe.model, file)
    facts = config, recipe, names, digest, root_digest, file.stripped
    return TrainedNetwork(name, file.uri, network, *facts)


def _is_teacher(file: WeightFile, config: ExperimentConfig) -> bool:
    """Return whether the tensors have the sizes of the teacher, and not those of the student."""
    stem = file.state.get("patch_embed.proj.weight")
    blocks = {tuple(name.split(".")[1:4:2]) for name in file.state if ".blocks." in name}
    depths = tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(4))
    sizes = (0 if stem is None else len(stem), depths)
    teacher, student = (
        None if model.foreign else sizes_of(model) for model in (config.teacher, config.student)
    )
    if file.uri == config.teacher_weights_uri or sizes == teacher != student:
        return True
    if student is not None and teacher is not None and sizes != student:
        if stem is None:
            raise WeightsMismatch(
                f"{file.uri} has no network of the family: there is no patch_embed.proj.weight, and"
                f" its tensors are called {shorten(file.state, 3)}. Take off what stands before the"
                " names of the network, and what is not of it."
            )
        raise WeightsMismatch(
            f"{file.uri} has the sizes {sizes} (width of the first stage, blocks of each stage); "
            f"the experiment's teacher has {teacher} and its student {student}. "
            "Set teacher.variant or student.variant."
        )
    return sizes != student and student is not None
