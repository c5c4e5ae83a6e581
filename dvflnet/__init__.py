"""Video-FocalNet networks, losses and metrics in plain torch: tensors in, tensors out.

The names in ``__all__`` are public.
"""

from dvflnet.losses import LossParts, distill_loss, label_loss, weighted_loss
from dvflnet.videofocalnet import VARIANTS, Variant, VideoFocalNet, build_model
from dvflnet.weights import load_state, published_state

__all__ = [
    "VARIANTS",
    "LossParts",
    "Variant",
    "VideoFocalNet",
    "build_model",
    "distill_loss",
    "label_loss",
    "load_state",
    "published_state",
    "weighted_loss",
]
