"""A student of about a million parameters: (2+1)D convolutions, depthwise in space and in time.

    student: {network: "examples.mobile_student:build"}

A block is an inverted residual (MobileNetV2, arXiv 1801.04381) whose depthwise convolution is split
into one over space and one over time (arXiv 1711.11248). It has group norm instead of batch norm,
which is the same in training and evaluation and does not depend on other clips of the batch.
"""

from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((32, 2, 1), (64, 2, 2), (112, 2, 3), (192, 2, 2))  # channels, stride in space, blocks
EXPANSION = 4


def build(num_classes: int, num_frames: int) -> nn.Module:
    return MobileStudent(num_classes)


class MobileStudent(nn.Module):
    """Map normalised clips ``(B, T, 3, H, W)`` to logits ``(B, K)``; any T, sides from 32."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        width = 24
        layers: list[nn.Module] = [conv(3, width, (1, 3, 3), stride=2)]
        for channels, stride, blocks in STAGES:
            for number in range(blocks):
                layers.append(Block(width, channels, stride if number == 0 else 1))
                width = channels
        self.features = nn.Sequential(*layers, conv(width, 4 * width, (1, 1, 1)))
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(4 * width, num_classes))

    def forward(self, clips: Tensor) -> Tensor:
        motion = clips - clips.mean(1, keepdim=True)  # without the scene, which few labels overfit
        maps = self.features(motion.transpose(1, 2))  # (B, C, T, H', W')
        return self.head(maps.mean((2, 3, 4)))


class Block(nn.Module):
    """Widen, convolve in space, then in time, narrow; and add the input where it fits."""

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = EXPANSION * width
        self.residual = stride == 1 and width == channels
        self.layers = nn.Sequential(
            conv(width, wide, (1, 1, 1)),
            conv(wide, wide, (1, 3, 3), stride=stride, groups=wide),
            conv(wide, wide, (3, 1, 1), groups=wide),
            nn.Conv3d(wide, channels, 1, bias=False),
            nn.GroupNorm(8, channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        out = self.layers(maps)
        return maps + out if self.residual else out


class Depthwise(nn.Conv3d):
    """A filter a channel, over space or over time, as a 2D one: four times as fast on a CPU."""

    def forward(self, maps: Tensor) -> Tensor:
        if self.kernel_size[0] > 1:
            padding = (self.padding[0], 0)
            out = F.conv2d(
                maps.flatten(3), self.weight[..., 0], padding=padding, groups=self.groups
            )
            return out.unflatten(3, maps.shape[3:])
        frames = maps.transpose(1, 2)  # (B, T, C, H', W')
        sizes = {"stride": self.stride[1:], "padding": self.padding[1:], "groups": self.groups}
        out = F.conv2d(frames.flatten(0, 1), self.weight[:, :, 0], **sizes)
        return out.unflatten(0, frames.shape[:2]).transpose(1, 2)


def conv(
    width: int, channels: int, kernel: tuple[int, int, int], stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = tuple(size // 2 for size in kernel)
    kind = Depthwise if groups > 1 else nn.Conv3d
    layer = kind(width, channels, kernel, (1, stride, stride), padding, groups=groups, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(8, channels), nn.Hardswish())
