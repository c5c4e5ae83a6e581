"""The config inside a published checkpoint, compared with the network that is built for it.

The published code pickles a yacs config beside the tensors. Some of its switches change what a
network computes without changing a tensor's shape, so strict loading alone would not find them.
Source: config.py and classification/build.py of github.com/TalalWasim/Video-FocalNets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.config.learning import ModelConfig
from pipeline.config.load import leaves

# The values that are built here; the published code has others, which no published config uses.
_BUILT = {
    "MODEL.TUBELET_SIZE": 1,
    "MODEL.FOCAL.PATCH_SIZE": 4,
    "MODEL.FOCAL.IN_CHANS": 3,
    "MODEL.FOCAL.FOCAL_LEVELS": [2, 2, 2, 2],
    "MODEL.FOCAL.FOCAL_WINDOWS": [3, 3, 3, 3],
    "MODEL.FOCAL.USE_CONV_EMBED": False,
    "MODEL.FOCAL.USE_LAYERSCALE": False,
    "MODEL.FOCAL.USE_POSTLN": False,
    "MODEL.FOCAL.USE_POSTLN_IN_MODULATION": False,
    "MODEL.FOCAL.NORMALIZE_MODULATOR": False,
}
_FAMILY = "videofocalnet_"


def described_network(checkpoint: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a checkpoint's own config by dotted key; empty if it has none.

    Raises:
        ValueError: naming each setting that makes another network than those built here, or that
            contradicts the tensors beside it.
    """
    config = next((checkpoint[key] for key in ("config", "cfg") if key in checkpoint), None)
    found = dict(leaves(config)) if isinstance(config, Mapping) else {}
    wanted = dict(_BUILT)
    if "head.weight" in state:
        wanted["MODEL.NUM_CLASSES"] = len(state["head.weight"])
    _refuse(found, wanted, "the network that is built for its tensors has")
    return found


def check_described(
    found: Mapping[str, Any],
    model: ModelConfig,
    num_frames: int,
    embed_dim: int,
    depths: Sequence[int],
) -> None:
    """Raise ``ValueError`` if a checkpoint's own config describes another network than ours."""
    wanted = {
        "MODEL.FOCAL.EMBED_DIM": embed_dim,
        "MODEL.FOCAL.DEPTHS": list(depths),
        "DATA.NUM_FRAMES": num_frames,
    }
    if str(found.get("MODEL.TYPE", "")).startswith(_FAMILY):
        wanted["MODEL.TYPE"] = _FAMILY + model.variant
    _refuse(found, wanted, "this experiment has")


def _refuse(found: Mapping[str, Any], wanted: Mapping[str, Any], owner: str) -> None:
    differing = [
        f"{key} {found[key]} (and {owner} {value})"
        for key, value in wanted.items()
        if key in found and _plain(found[key]) != value
    ]
    if differing:
        raise ValueError(f"its own config says {'; '.join(differing)}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
