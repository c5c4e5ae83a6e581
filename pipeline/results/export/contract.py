"""The contract of an exported student: its input and output, its formats, and its material."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from dvflnet.deployed import ClipClassifier, folded, trace
from pipeline.errors import ConfigError
from pipeline.networks.trained import TrainedNetwork
from pipeline.views.view import EVALUATION_CROP, kept_places

Format = Literal["pt2", "onnx", "executorch"]
FORMATS: tuple[Format, ...] = get_args(Format)
PACKAGES: dict[Format, tuple[str, ...]] = {
    "pt2": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
}
# An exported file, loaded: uint8 clips (B, T, H, W, 3) -> float32 logits (B, K).
Program = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def contract_of(trained: TrainedNetwork, batch: str = "batch") -> dict[str, str]:
    """Return input and output of an exported student, in words that need none of this code.

    ``batch`` is "1" for a file that takes one clip at a time.
    """
    recipe = trained.recipe
    parts = kept_places(recipe.num_frames, recipe.frame_stride)
    shape = ", ".join(map(str, (batch, *recipe.clip_shape)))
    kept = f", of these parts {parts}, from 0" if len(parts) < recipe.num_frames else ""
    part, whole = EVALUATION_CROP
    seen = f"the centred square of {part}/{whole} of the short side"
    if recipe.policy.squash:
        seen = "the whole picture, its aspect ignored"
    return {
        "name": trained.name,
        "class_names": json.dumps(list(trained.class_names)),
        "input": f"clip: uint8 ({shape}), RGB, 0 to 255, frames in the order of time; "
        "normalisation is inside",
        "output": f"logits: float32 ({batch}, {len(trained.class_names)}), before softmax, in "
        "the order of class_names",
        "frames": f"the middle frame of each of {recipe.num_frames} equal parts of the video{kept}",
        "num_parts": str(recipe.num_frames),
        "parts": json.dumps(parts),
        "picture": f"{seen}, resized to {recipe.side} x {recipe.side}: by area mean where it "
        "shrinks, bilinear where it grows",
        "weights_digest": trained.digest,
        "root_digest": trained.root_digest,
    }


@dataclass(frozen=True)
class Material:
    """The source of the files of all formats."""

    trained: TrainedNetwork
    module: fx.GraphModule  # folded
    program: torch.export.ExportedProgram  # the same, traced
    clips: npt.NDArray[np.uint8]  # (N, T, H, W, 3), of train, to calibrate int8 with


def build_material(trained: TrainedNetwork, clips: npt.NDArray[np.uint8]) -> Material:
    """Trace a trained network and fold it."""
    shape = trained.recipe.clip_shape
    classifier = ClipClassifier(trained.network, motion_only=trained.recipe.motion_only).eval()
    module = folded(trace(classifier, shape))
    return Material(trained, module, trace(module, shape), clips)


def check_formats(names: Sequence[str]) -> tuple[Format, ...]:
    """Return the named formats in the order of ``FORMATS``; without names, all installed ones.

    ConfigError if there is no such format, or its packages are not installed.
    """
    if unknown := sorted(set(names) - set(FORMATS)):
        raise ConfigError(f"there is no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    missing: dict[str, list[str]] = {
        name: [package for package in PACKAGES[name] if find_spec(package) is None]
        for name in FORMATS
    }
    for name in names:
        if missing[name]:
            raise ConfigError(
                f"the format {name} needs packages that are not installed: "
                f"{', '.join(missing[name])}. Run make install-export, or leave it out."
            )
    return tuple(name for name in FORMATS if name in names or not (names or missing[name]))


def as_program(module: Callable[[Tensor], Tensor]) -> Program:
    """Wrap a function of tensors as one of arrays."""

    def run(clips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            return module(torch.from_numpy(clips)).numpy()

    return run
