"""Networks from config sections: freshly initialised, or started from a file of weights."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import nn

from dvflnet.videofocalnet import VARIANTS, VideoFocalNet
from dvflnet.weights import LoadReport, adopt_state, load_image_state, load_state, state_digest
from pipeline.config.learning import ModelConfig
from pipeline.errors import WeightsMismatch
from pipeline.networks.class_order import head_rows
from pipeline.networks.foreign import InOrder, build_foreign, source_digest
from pipeline.networks.published import check_described
from pipeline.networks.weight_files import SOURCE, WeightFile, read_weights
from pipeline.storage.files import sha256_of
from pipeline.storage.sealed.identity import canonical_json


def build_network(model: ModelConfig, *, num_classes: int, num_frames: int) -> nn.Module:
    """Build the network that a config section describes, freshly initialised."""
    if model.foreign:
        return build_foreign(model.network, num_classes=num_classes, num_frames=num_frames)
    embed_dim, depths = sizes_of(model)
    return VideoFocalNet(
        num_classes=num_classes,
        num_frames=num_frames,
        embed_dim=embed_dim,
        depths=depths,
        drop_path_rate=model.drop_path_rate,
    )


def sizes_of(model: ModelConfig) -> tuple[int, tuple[int, ...]]:
    """Return a Video-FocalNet's width of the first stage, and the blocks of each stage."""
    sizes = VARIANTS[model.variant]
    return model.embed_dim or sizes.embed_dim, model.depths or sizes.depths


def load_network(model: ModelConfig, file: WeightFile, *, num_frames: int) -> nn.Module:
    """Build the network that a config section describes around the tensors of a file.

    Nothing is drawn at random or copied: the parameters are the file's tensors. A foreign network
    is built by its function, and the tensors are copied into it.

    Raises:
        WeightsMismatch: naming every tensor that is missing, unexpected or of another shape, or
            each setting of a published checkpoint that contradicts the section.
    """
    head = file.head or file.class_names
    try:
        if model.foreign:
            network = build_network(model, num_classes=len(head), num_frames=num_frames)
            load_state(network, file.state, head="keep")
            _check_source(model, file)
        else:
            check_described(file.described, model, num_frames, *sizes_of(model))
            with torch.device("meta"):
                network = build_network(model, num_classes=len(head), num_frames=num_frames)
            adopt_state(network, file.state)
    except ValueError as error:
        raise WeightsMismatch(f"{file.uri}: {error}") from error
    if file.head:
        network = InOrder(network, head_rows(file.head, file.class_names))
    return network.eval()


def network_digest(model: ModelConfig, file: WeightFile) -> str:
    """Return the digest of what decides a network's logits, beside its config section.

    For a Video-FocalNet that is the tensors. The code of a foreign network is not ours, so its
    source file counts as well, and the order that its classes are put in.
    """
    digest = state_digest(file.state)
    if not model.foreign:
        return digest
    rows = head_rows(file.head, file.class_names) if file.head else None
    return sha256_of(canonical_json([digest, source_digest(model.network), rows]))


def _check_source(model: ModelConfig, file: WeightFile) -> None:
    """Warn of weights that were trained with another version of the function's source."""
    here = source_digest(model.network)
    if file.metadata.get(SOURCE, here) != here:
        warnings.warn(
            f"{file.uri} was trained with another version of {model.network}; its tensors fit, and "
            "whether it computes the same is not known",
            stacklevel=2,
        )


def init_digest(model: ModelConfig) -> str:
    """Return the digest of the weights that training starts from, empty for ``init: scratch``."""
    return state_digest(read_weights(model.init_weights).state) if model.init_weights else ""


def start_network(network: nn.Module, model: ModelConfig) -> LoadReport | None:
    """Load the weights that training starts from, if ``init`` names any, and report on each tensor.

    Raises:
        WeightsMismatch: if the file does not fit the network.
    """
    if model.init_weights is None:
        return None
    file = read_weights(model.init_weights)
    try:
        if model.init == "imagenet":
            assert isinstance(network, VideoFocalNet)
            report = load_image_state(
                network, file.state, preserve_image_function=model.preserve_image_function
            )
        else:
            report = load_state(network, file.state, head=model.init_head)
    except ValueError as error:
        raise WeightsMismatch(f"{model.init_weights}: {error}") from error
    return replace(report, stripped=file.stripped)
