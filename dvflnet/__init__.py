"""Video-FocalNet networks, losses and metrics in plain torch: tensors in, tensors out."""

from dvflnet.variants import VARIANTS, Variant, build_model
from dvflnet.videofocalnet import VideoFocalNet

__all__ = ["VARIANTS", "Variant", "VideoFocalNet", "build_model"]
