"""Networks other than Video-FocalNets: functions and program files, and their examination.

A function, ``package.module:function``, takes ``(num_classes, num_frames)`` and returns a module
that maps normalised clips ``(B, T, 3, H, W)`` to logits ``(B, K)``. Modules are looked for as
``python -m`` does: among the installed ones and in the working directory, which ``ray job submit
--working-dir`` carries along.

A program file holds its weights: ``.pt2`` (torch.export) or ``.onnx`` (run by onnxruntime). It
takes float32 clips under the name ``clips``, any number at once.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvflnet.weights import state_digest
from pipeline.config.learning import PROGRAMS
from pipeline.errors import ConfigError
from pipeline.storage.files import exists, read_bytes, sha256_of

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"  # of onnxruntime
NUM_PROBES = 8  # clips that a network is examined on
# How much a logit may change with the other clips of its batch, as a share of the largest logit.
# Products of other shapes differ by some 1e-6; statistics over a batch differ by far more.
COMPANY_TOLERANCE = 1e-4


def find_builder(network: str) -> Callable[..., Any]:
    """Import the function that ``package.module:function`` names, or find a program file.

    Raises:
        ConfigError: if there is no such module, function or file here.
    """
    if network.endswith(PROGRAMS):
        if not exists(network):
            raise ConfigError(f"there is no program file {network}")
        return lambda num_classes, num_frames: Program(network)
    module_name, _, name = network.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the network {network} cannot be imported: {error}. Its module must be installed, or "
            f"lie in the working directory ({here})."
        ) from error
    if not callable(found):
        raise ConfigError(f"{network} is no function, but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def source_digest(network: str) -> str:
    """Return the sha256 of the file that defines a network."""
    builder = find_builder(network)
    if network.endswith(PROGRAMS):
        return sha256_of(read_bytes(network))
    try:
        return sha256_of(Path(inspect.getfile(builder)).read_bytes())
    except (TypeError, OSError) as error:
        raise ConfigError(f"{network} is not defined in a source file: {error}") from error


def build_foreign(network: str, *, num_classes: int, num_frames: int) -> nn.Module:
    """Call the function that a network's name stands for.

    Raises:
        ConfigError: if it fails, or returns no module.
    """
    builder = find_builder(network)
    try:
        built = builder(num_classes, num_frames)
    except Exception as error:
        reason = error if isinstance(error, ConfigError) else repr(error)
        text = f"{network} cannot be built for {num_classes} classes: {reason}"
        raise ConfigError(text) from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f"{network} returned {type(built).__name__}, and no torch.nn.Module")
    return built


def own_state(network: str, *, num_classes: int, num_frames: int) -> dict[str, Tensor]:
    """Return the weights with which a function initialises its network.

    Raises:
        ConfigError: if two calls give different ones, as random initialisation does.
    """
    first, second = (
        build_foreign(network, num_classes=num_classes, num_frames=num_frames).state_dict()
        for _ in range(2)
    )
    if state_digest(first) != state_digest(second):
        raise ConfigError(
            f"two calls of {network} give different weights, so at least a part of it is random. "
            "Set teacher.weights, or train it with jobs/train_teacher.py."
        )
    return first


def examine(
    forward: Callable[[Tensor], Any],
    network: str,
    num_classes: int,
    clip_shape: tuple[int, int],
    device: torch.device | None = None,
) -> None:
    """Run a network over random clips of (frames, side), and refuse it if an answer is wrong.

    Raises:
        ConfigError: if it fails on the clip's shape, does not return finite logits ``(B, K)``,
            answers differently a second time, or mixes the clips of a batch.
    """
    num_frames, side = clip_shape
    shape = (NUM_PROBES, num_frames, 3, side, side)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    half = NUM_PROBES // 2
    alone = torch.cat([clips[:half], torch.zeros_like(clips[half:])])
    with torch.inference_mode():
        try:
            logits, again, others = (forward(batch) for batch in (clips, clips, alone))
        except Exception as error:
            raise ConfigError(f"{network} cannot take clips of shape {shape}: {error}") from error
    if not isinstance(logits, Tensor) or logits.shape != (NUM_PROBES, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        wanted = (NUM_PROBES, num_classes)
        raise ConfigError(f"{network} must return logits {wanted} for {shape}, got {found}")
    if not logits.is_floating_point() or not torch.isfinite(logits).all():
        raise ConfigError(
            f"{network} must return finite floating logits; it has {logits.dtype} and "
            f"{int((~torch.isfinite(logits)).sum())} values that are not finite"
        )
    if not torch.equal(logits, again):
        raise ConfigError(f"{network} is random: two passes over the same clips differ")
    difference = float((logits - others)[:half].abs().max() / logits.abs().max().clamp(min=1e-12))
    if difference > COMPANY_TOLERANCE:
        raise ConfigError(
            f"{network} mixes the clips of a batch: a clip's logits change by {difference:.1e} of "
            f"the largest one with the other clips, and {COMPANY_TOLERANCE:g} is allowed"
        )


class Program(nn.Module):
    """A program file as a module without parameters; it runs where its input is."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._run = (_load_onnx if uri.endswith(".onnx") else _load_pt2)(read_bytes(uri))

    def forward(self, clips: Tensor) -> Any:
        return self._run(clips)


def _load_pt2(content: bytes) -> Callable[[Tensor], Any]:
    program = torch.export.load(io.BytesIO(content))
    names = list(program.graph_signature.user_inputs)
    if names != ["clips"]:
        raise ConfigError(f"it must have one input, 'clips' (B, T, 3, H, W); it has {names}")
    loaded = [program.module()]  # a list: as a submodule it would be asked for eval(), and refuse
    return lambda clips: loaded[0].to(clips.device)(clips)


def _load_onnx(content: bytes) -> Callable[[Tensor], Any]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("an .onnx teacher needs onnxruntime: pip install '.[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    # Tensors in a second file would not be in the digest. They are looked for in no folder.
    options.add_session_config_entry(EXTERNAL_FOLDER, os.devnull)
    session = onnxruntime.InferenceSession(content, options, providers=providers)
    inputs = [(found.name, found.type, found.shape) for found in session.get_inputs()]
    if [(name, kind) for name, kind, _ in inputs] != [("clips", "tensor(float)")]:
        raise ConfigError(f"it must have one input, float32 'clips' (B, T, 3, H, W); has {inputs}")
    if isinstance(inputs[0][2][0], int):
        raise ConfigError(f"its batch is fixed to {inputs[0][2][0]}; export it with an open one")

    def run(clips: Tensor) -> Any:
        outputs = session.run(None, {"clips": clips.float().cpu().numpy()})
        found = [torch.from_numpy(output).to(clips.device) for output in outputs]
        return found[0] if len(found) == 1 else found

    return run


class InOrder(nn.Module):
    """A network whose classes are put in another order, or of which some are left out."""

    def __init__(self, network: nn.Module, rows: list[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("rows", torch.tensor(rows), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.network(clips)
        return logits.index_select(1, self.rows)  # type: ignore[arg-type]
