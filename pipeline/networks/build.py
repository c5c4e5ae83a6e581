"""From a config section to a network, freshly initialised or started from somebody's weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dvflnet.photometric import normalise, photometric, subtract_mean_frame
from dvflnet.variants import build_model
from dvflnet.videofocalnet import VideoFocalNet
from dvflnet.weights import (
    LoadReport,
    adopt_state,
    load_image_state,
    load_state,
    state_digest,
)
from pipeline.config.schema import ModelConfig
from pipeline.errors import WeightsMismatch
from pipeline.networks.weight_files import WeightFile, read_weights


def build_network(model: ModelConfig, *, num_classes: int, num_frames: int) -> VideoFocalNet:
    """Build the network that a config section describes, freshly initialised."""
    return build_model(
        model.variant,
        num_classes,
        num_frames,
        model.drop_path_rate,
        embed_dim=model.embed_dim,
        depths=model.depths,
    )


def load_network(
    model: ModelConfig, file: WeightFile, *, num_classes: int, num_frames: int
) -> VideoFocalNet:
    """Build the network that a config section describes around the tensors of a file.

    Nothing is drawn or copied: the parameters are the file's tensors.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape.

    """
    with torch.device("meta"):
        network = build_network(model, num_classes=num_classes, num_frames=num_frames)
    adopt_state(network, file.state)
    return network


def init_digest(model: ModelConfig) -> str:
    """Return the digest of the weights that training starts from, empty for ``init: scratch``."""
    return state_digest(read_weights(model.init_weights).state) if model.init_weights else ""


def start_network(network: VideoFocalNet, model: ModelConfig) -> LoadReport | None:
    """Load what training starts from; the report says what became of every tensor.

    Returns:
        The report, or none for ``init: scratch``.

    Raises:
        WeightsMismatch: if the file does not fit the network.

    """
    if model.init_weights is None:
        return None
    state = read_weights(model.init_weights).state
    try:
        if model.init == "imagenet":
            return load_image_state(
                network, state, preserve_image_function=model.preserve_image_function
            )
        return load_state(network, state, head=model.init_head)
    except ValueError as error:
        raise WeightsMismatch(f"{model.init_weights}: {error}") from error


# FOLDED networks/device
# From clips as they travel to the tensor that a network takes, on the device.
#
# Teacher and student take this one path, so that a cached target belongs to the student's pixels.


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare_clips(
    frames: npt.NDArray[np.uint8],
    jitter: npt.NDArray[np.int16],
    device: torch.device,
    *,
    motion_only: bool,
) -> Tensor:
    """Move clips as uint8, then augment and normalise them there.

    Args:
        frames: uint8 ``(B, T, H, W, 3)``.
        jitter: ``(B, 1 or T, 5)``.
        device: of the network.
        motion_only: take each pixel's mean over the frames away.

    Returns:
        float32 ``(B, T, 3, H, W)``, in channels-last memory.

    """
    clips = torch.from_numpy(frames).to(device).permute(0, 1, 4, 2, 3)
    clips = normalise(photometric(clips, torch.from_numpy(jitter).to(device)))
    return subtract_mean_frame(clips) if motion_only else clips


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision; it does nothing for float32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")


def round_weights(network: VideoFocalNet, precision: str) -> None:
    """Hold what autocast would round anew for every batch as rounded: half the memory, same logits.

    Norms and head stay float32. What is not rounded is copied, too, so that a mapped file is let
    go of.
    """
    products = (nn.Linear, nn.Conv1d, nn.Conv2d)
    for module in network.modules():
        rounded = isinstance(module, products) and module is not network.head
        for parameter in module.parameters(recurse=False):
            dtype = PRECISIONS[precision] if rounded else parameter.dtype
            parameter.data = parameter.data.to(dtype, copy=True)
