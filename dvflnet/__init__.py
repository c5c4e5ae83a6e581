"""Video-FocalNet networks, losses and metrics in plain torch: tensors in, tensors out."""

from dvflnet.losses import LossParts, distill_loss, label_loss, weighted_loss
from dvflnet.variants import VARIANTS, Variant, build_model
from dvflnet.videofocalnet import VideoFocalNet

__all__ = [
    "VARIANTS",
    "LossParts",
    "Variant",
    "VideoFocalNet",
    "build_model",
    "distill_loss",
    "label_loss",
    "weighted_loss",
]
