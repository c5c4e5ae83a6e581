"""A finished network with all that it takes to use it, from its weights file alone.

Training writes the resolved config and the class names into the file, so that it can travel: to
evaluation, to prediction and to export. A teacher that somebody else has trained has no config in
its file; the experiment's own says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dvflnet.videofocalnet import VideoFocalNet
from dvflnet.weights import state_digest
from pipeline.config.load import parse_config
from pipeline.config.schema import ExperimentConfig
from pipeline.errors import WeightsMismatch
from pipeline.networks.build import autocast, load_network, prepare_clips
from pipeline.networks.recipe import Recipe, student_recipe, teacher_recipe
from pipeline.networks.weight_files import WeightFile, read_weights


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, and what it was made for.

    ``recipe`` says how its clips are cut, ``config`` is the experiment that it was trained by.
    ``name`` is that of its run, ``root_digest`` that of the store that it learned from (empty for
    a teacher), ``digest`` that of its weights.
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
        """Compare its classes with those of a manifest.

        Raises:
            WeightsMismatch: if they are others, or in another order.

        """
        if self.class_names != class_names:
            raise WeightsMismatch(
                f"{self.uri} tells {len(self.class_names)} classes apart, and they are not those "
                f"of the manifest ({len(class_names)}), or in another order."
            )

    def probabilities(
        self,
        frames: npt.NDArray[np.uint8],
        jitter: npt.NDArray[np.int16],
        device: torch.device,
        *,
        batch_size: int,
    ) -> npt.NDArray[np.float64]:
        """Run clips through the network.

        Args:
            frames: uint8 ``(n, T, side, side, 3)``, T and side of its recipe.
            jitter: int16 ``(n, 1 or T, 5)``.
            device: that the network is on.
            batch_size: clips at once.

        Returns:
            float64 ``(n, K)``; rows sum to one.

        """
        precision = self.recipe.train.precision
        parts = []
        for start in range(0, len(frames), batch_size):
            batch = slice(start, start + batch_size)
            with torch.inference_mode(), autocast(device, precision):
                clips = prepare_clips(
                    frames[batch], jitter[batch], device, motion_only=self.recipe.motion_only
                )
                logits = self.network(clips)
            parts.append(logits.double().softmax(dim=1).cpu().numpy())
        return np.concatenate(parts)


def load_trained(uri: str) -> TrainedNetwork:
    """Load a student, or a teacher that was trained here.

    Raises:
        WeightsMismatch: if there is no such file, it is damaged, or it does not say what it is.

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
    """Load the teacher of an experiment, whoever trained it.

    Raises:
        WeightsMismatch: if its weights are not there, do not fit, or name other classes.

    """
    uri = config.teacher_weights_uri
    file = read_weights(uri)
    if file.class_names and file.class_names != class_names:
        raise WeightsMismatch(f"{uri} was trained on other classes than the manifest has")
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
            recipe.model,
            file,
            num_classes=len(names),
            num_frames=recipe.clip_num_frames,
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
