"""A network run over clips: uint8 frames and jitter in, logits out.

Training, caching, evaluation and prediction take this path, so that a cached target belongs to the
pixels that the student sees. Exported files have the same preprocessing inside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dvflnet.mixing import Mixing, mix_clips
from dvflnet.photometric import normalise, photometric, subtract_mean_frame
from dvflnet.videofocalnet import VideoFocalNet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Frames = npt.NDArray[np.uint8] | Tensor  # uint8 (B, T, H, W, 3)
Jitter = npt.NDArray[np.int16] | Tensor  # int16 (B, 1 or T, 5)


@dataclass(frozen=True)
class ClipNetwork:
    """A network on its device, with the precision of its products.

    ``motion_only`` subtracts each pixel's mean over the frames. The caller sets training or
    evaluation mode, and turns gradients off if it wants none.
    """

    network: nn.Module
    device: torch.device
    precision: str
    motion_only: bool

    def logits(self, frames: Frames, jitter: Jitter | None, mixing: Mixing | None = None) -> Tensor:
        """Return logits ``(B, K)``; the head's product is in float32 whatever the precision."""
        clips = self._clips(frames, jitter, mixing)
        with autocast(self.device, self.precision):
            logits: Tensor = self.network(clips)
        return logits

    def exact_logits(
        self, frames: Frames, jitter: Jitter | None, mixing: Mixing | None = None
    ) -> Tensor:
        """Return float32 logits ``(B, K)``; the head runs in float32 and sees one clip at a time.

        With few classes the rows of a larger product differ in their last bits by their position.
        """
        network = self.network
        if not isinstance(network, VideoFocalNet):  # its head is not known
            return self.logits(frames, jitter, mixing).float()
        clips = self._clips(frames, jitter, mixing)
        with autocast(self.device, self.precision):
            features = network.forward_features(clips)
        return torch.cat([network.head(row) for row in features.float().split(1)])

    def _clips(self, frames: Frames, jitter: Jitter | None, mixing: Mixing | None) -> Tensor:
        clips = prepare_clips(frames, jitter, self.device, motion_only=self.motion_only)
        return clips if mixing is None else mix_clips(clips, mixing)

    def probabilities(self, frames: Frames, *, batch_size: int) -> npt.NDArray[np.float64]:
        """Return float64 ``(B, K)``, rows that sum to one, from ``batch_size`` clips at once."""
        with torch.inference_mode():
            batches = [
                self.logits(frames[i : i + batch_size], None)
                for i in range(0, len(frames), batch_size)
            ]
            return torch.cat(batches).double().softmax(dim=1).cpu().numpy()


def prepare_clips(
    frames: Frames, jitter: Jitter | None, device: torch.device, *, motion_only: bool
) -> Tensor:
    """Move clips as uint8, then augment (None: not at all) and normalise them on the device.

    The result is float32 ``(B, T, 3, H, W)``, in channels-last memory.
    """
    clips = torch.as_tensor(frames).to(device, non_blocking=True).permute(0, 1, 4, 2, 3)
    if jitter is not None:
        clips = photometric(clips, torch.as_tensor(jitter).to(device, non_blocking=True))
    clips = normalise(clips)
    return subtract_mean_frame(clips) if motion_only else clips


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision; it does nothing for float32."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")


def round_weights(network: VideoFocalNet, precision: str) -> None:
    """Round once what autocast would round for every batch: half the memory, the same logits.

    Norms and head stay float32. They are copied, so that a mapped file of weights can be closed.
    """
    products = (nn.Linear, nn.Conv1d, nn.Conv2d)
    for module in network.modules():
        rounded = isinstance(module, products) and module is not network.head
        for parameter in module.parameters(recurse=False):
            dtype = PRECISIONS[precision] if rounded else parameter.dtype
            parameter.data = parameter.data.to(dtype, copy=True)
