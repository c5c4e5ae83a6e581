"""A trained network with its recipe, config and classes, from its weights file alone.

Training writes the resolved config and the class names into the file, for evaluation, prediction
and export. The file of a teacher that was trained elsewhere has no config; the experiment's own
describes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dvflnet.videofocalnet import VideoFocalNet
from dvflnet.weights import state_digest
from pipeline.config.load import parse_config
from pipeline.config.schema import ExperimentConfig
from pipeline.errors import WeightsMismatch
from pipeline.networks.build import load_network
from pipeline.networks.forward import ClipNetwork
from pipeline.networks.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.networks.teacher import read_teacher
from pipeline.networks.weight_files import WeightFile, read_weights


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, and the run that trained it.

    ``config`` and ``recipe`` are those of training; the recipe also cuts the network's clips.
    ``name`` is the run's, ``root_digest`` that of the store that it learned from (empty for a
    teacher), ``digest`` that of the weights.
    """

    name: str
    uri: str
    network: VideoFocalNet
    config: ExperimentConfig
    recipe: Recipe
    class_names: tuple[str, ...]
    digest: str
    root_digest: str

    def check_classes(self, class_names: tuple[str, ...]) -> None:
        if self.class_names != class_names:
            raise WeightsMismatch(
                f"{self.uri} tells {len(self.class_names)} classes apart, and they are not those "
                f"of the manifest ({len(class_names)}), or in another order."
            )

    def on(self, device: torch.device, *, precision: str | None = None) -> ClipNetwork:
        """Move the network to a device, to run there in its own precision or in another one."""
        return ClipNetwork(
            self.network.to(device),
            device,
            precision or self.recipe.train.precision,
            self.recipe.motion_only,
        )


def load_trained(uri: str) -> TrainedNetwork:
    """Load a student, or a teacher that was trained here.

    Raises:
        WeightsMismatch: if the file is missing or damaged, or does not describe its network.
    """
    file = read_weights(uri)
    if "config" not in file.metadata or not file.class_names:
        raise WeightsMismatch(
            f"{uri} does not say how it was trained: there is no config or no class names in it. "
            "Give a best.safetensors or last.safetensors that train_student or train_teacher wrote."
        )
    config = parse_config(file.metadata["config"], source=uri)
    root_digest = file.metadata.get("root_digest", "")
    # Students learn from a store, also those that learn from labels alone; teachers from none.
    recipe = student_recipe(config) if root_digest else teacher_recipe(config)
    return _build(file.metadata.get("run", uri), uri, file, config, recipe, root_digest)


def load_teacher(config: ExperimentConfig, class_names: tuple[str, ...]) -> TrainedNetwork:
    """Load the teacher of an experiment, trained here or elsewhere.

    Raises:
        WeightsMismatch: if its weights are not there or do not fit, or their classes do not.
    """
    uri = config.teacher_weights_uri
    file = read_teacher(config, class_names)
    return _build("teacher", uri, file, config, teacher_recipe(config), "", class_names)


def _build(
    name: str,
    uri: str,
    file: WeightFile,
    config: ExperimentConfig,
    recipe: Recipe,
    root_digest: str,
    class_names: tuple[str, ...] = (),
) -> TrainedNetwork:
    names = class_names or file.class_names
    try:
        network = load_network(
            recipe.model, file, num_classes=len(names), num_frames=recipe.clip_num_frames
        )
    except ValueError as error:
        raise WeightsMismatch(f"{uri}: {error}") from error
    return TrainedNetwork(
        name=name,
        uri=uri,
        network=network.eval(),
        config=config,
        recipe=recipe,
        class_names=names,
        digest=state_digest(file.state),
        root_digest=root_digest,
    )
