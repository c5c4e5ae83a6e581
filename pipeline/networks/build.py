"""Networks from config sections: freshly initialised, or started from a file of weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from dvflnet.videofocalnet import VARIANTS, VideoFocalNet
from dvflnet.weights import LoadReport, adopt_state, load_image_state, load_state, state_digest
from pipeline.config.schema import ModelConfig
from pipeline.errors import WeightsMismatch
from pipeline.networks.published import check_described
from pipeline.networks.weight_files import WeightFile, read_weights


def build_network(model: ModelConfig, *, num_classes: int, num_frames: int) -> VideoFocalNet:
    """Build the network that a config section describes, freshly initialised."""
    embed_dim, depths = sizes_of(model)
    return VideoFocalNet(
        num_classes=num_classes,
        num_frames=num_frames,
        embed_dim=embed_dim,
        depths=depths,
        drop_path_rate=model.drop_path_rate,
    )


def sizes_of(model: ModelConfig) -> tuple[int, tuple[int, ...]]:
    """Return the width of the first stage, and the blocks of each stage."""
    sizes = VARIANTS[model.variant]
    return model.embed_dim or sizes.embed_dim, model.depths or sizes.depths


def load_network(model: ModelConfig, file: WeightFile, *, num_frames: int) -> VideoFocalNet:
    """Build the network that a config section describes around the tensors of a file.

    Nothing is drawn at random or copied: the parameters are the file's tensors.

    Raises:
        WeightsMismatch: naming every tensor that is missing, unexpected or of another shape, or
            each setting of a published checkpoint that contradicts the section.
    """
    embed_dim, depths = sizes_of(model)
    num_classes = len(file.class_names)
    try:
        check_described(
            file.described, model, num_frames=num_frames, embed_dim=embed_dim, depths=depths
        )
        with torch.device("meta"):
            network = build_network(model, num_classes=num_classes, num_frames=num_frames)
        adopt_state(network, file.state)
    except ValueError as error:
        raise WeightsMismatch(f"{file.uri}: {error}") from error
    return network.eval()


def init_digest(model: ModelConfig) -> str:
    """Return the digest of the weights that training starts from, empty for ``init: scratch``."""
    return state_digest(read_weights(model.init_weights).state) if model.init_weights else ""


def start_network(network: VideoFocalNet, model: ModelConfig) -> LoadReport | None:
    """Load the weights that training starts from, if ``init`` names any, and report on each tensor.

    Raises:
        WeightsMismatch: if the file does not fit the network.
    """
    if model.init_weights is None:
        return None
    file = read_weights(model.init_weights)
    try:
        if model.init == "imagenet":
            report = load_image_state(
                network, file.state, preserve_image_function=model.preserve_image_function
            )
        else:
            report = load_state(network, file.state, head=model.init_head)
    except ValueError as error:
        raise WeightsMismatch(f"{model.init_weights}: {error}") from error
    return replace(report, stripped=file.stripped)
