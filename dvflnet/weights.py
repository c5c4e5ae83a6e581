"""Strict loading of a state dict into a network, and digests of state dicts.

The published loaders use ``strict=False`` and only log the outcome; that is how a teacher's trained
head was replaced by random numbers unnoticed. Here the caller decides about the head, every other
difference is a ``ValueError`` that names each tensor, and a network is changed only if the whole
state dict fits.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dvflnet.videofocalnet import VideoFocalNet

_HEAD, _TEMPORAL = "head.", "_temporal."
# Keys of a container in order of preference: weights come before their moving average.
_CONTAINERS = ("model", "state_dict", "model_state_dict", "model_state", "model_ema")
_WRAPPERS = re.compile(r"(module\.|_orig_mod\.)*")  # DistributedDataParallel, torch.compile
MAX_NAMED = 8  # tensors of a group, of a file from which none was taken
_BLOCK = re.compile(r"layers\.[0-3]\.blocks\.\d+\.")


@dataclass(frozen=True)
class LoadReport:
    """The fate of every tensor of a network and of a state dict; each name is in one group."""

    taken: tuple[str, ...]  # in both, of the same shape
    new_head: tuple[str, ...]  # the network's, where the caller wanted a new one
    missing: tuple[str, ...]  # in the network only; keeps its fresh values
    unexpected: tuple[str, ...]  # in the state dict only; ignored
    wrong_shape: tuple[str, ...]  # in both: the name and the two shapes
    stripped: str = ""  # the prefix that all names of the file lost: ``module.`` and the like

    def as_text(self) -> str:
        """Return the counts, and every name but those that were taken; a few if none was."""
        groups = {
            "new head": self.new_head,
            "missing, fresh values kept": self.missing,
            "unexpected, ignored": self.unexpected,
            "wrong shape": self.wrong_shape,
        }
        lines = [f"{len(self.taken)} tensors taken"]
        for title, names in groups.items():
            named = names if self.taken else names[:MAX_NAMED]
            lines += [f"{len(names)} {title}", *(f"  {name}" for name in named)]
            if left_out := len(names) - len(named):
                lines.append(f"  and {left_out} more")
        if self.stripped:
            lines.append(f"{self.stripped!r} stripped from all names")
        return "\n".join(lines)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return a sha256, in hexadecimal, of all names, shapes, dtypes and bytes, in order of names.

    Device and memory layout do not matter.
    """
    digest = hashlib.sha256()
    for part in _parts(state):
        digest.update(part)
    return digest.hexdigest()


def state_crc(state: Mapping[str, Tensor]) -> int:
    """Return the CRC-32 of what ``state_digest`` covers: it finds damage in a third of the time."""
    crc = 0
    for part in _parts(state):
        crc = zlib.crc32(part, crc)
    return crc


def published_state(checkpoint: Any) -> tuple[dict[str, Tensor], str]:
    """Find the state dict in an unpickled checkpoint: bare, or in a container of a training script.

    Names lose a prefix that all of them have, such as ``module.``, which is not of the network but
    of what wrapped it in training. It is returned beside the tensors; it may be empty.

    Raises:
        ValueError: if there is no state dict, or it holds anything but named tensors.
    """
    if not isinstance(checkpoint, Mapping):
        found = type(checkpoint).__name__
        raise ValueError(f"expected a state dict or a container with 'model', found {found}")
    key = next((key for key in _CONTAINERS if key in checkpoint), None)
    state = checkpoint if key is None else checkpoint[key]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"'{key or 'model'}' must be a state dict with at least one tensor")
    strangers = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        named = ", ".join(map(str, strangers[:8]))
        raise ValueError(f"not a state dict: there is no tensor under {named}")
    named_tensors = {str(name): tensor.detach() for name, tensor in state.items()}
    prefix = _common_prefix(named_tensors)
    return {name.removeprefix(prefix): tensor for name, tensor in named_tensors.items()}, prefix


def _common_prefix(names: Iterable[str]) -> str:
    """Return the wrappers' prefixes, one or several in a row, that all names begin with."""
    prefixes = {_WRAPPERS.match(name).group() for name in names}  # type: ignore[union-attr]
    return prefixes.pop() if len(prefixes) == 1 else ""


def load_state(
    model: nn.Module, state: Mapping[str, Tensor], *, head: Literal["keep", "new"]
) -> LoadReport:
    """Copy a state dict of the same network into ``model``, in its own dtypes and on its device.

    ``head="keep"`` takes the head of ``state``; ``"new"`` leaves the head of ``model`` as it is.

    Raises:
        ValueError: with the report, if a tensor is missing, unexpected or of another shape.
    """
    if head not in ("keep", "new"):
        raise ValueError(f"head must be 'keep' or 'new', got {head!r}")
    report = _compare(model, state, new_head=head == "new")
    _refuse(report, missing=report.missing, unexpected=report.unexpected)
    _copy(model, state, report.taken)
    return report


def adopt_state(model: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Make the tensors of a state dict the parameters of ``model``, without a copy.

    For inference from a model that was built on PyTorch's meta device, where nothing is allocated
    or drawn, and a state dict that is mapped from its file. Only a tensor of another dtype is
    converted. Differences are refused as by ``load_state``.
    """
    report = _compare(model, state, new_head=False)
    _refuse(report, missing=report.missing, unexpected=report.unexpected)
    adopted = {name: state[name].to(own.dtype) for name, own in model.state_dict().items()}
    model.load_state_dict(adopted, assign=True)
    return report


def load_image_state(
    model: VideoFocalNet, state: Mapping[str, Tensor], *, preserve_image_function: bool
) -> LoadReport:
    """Copy a FocalNet trained on images into the spatial part of ``model``.

    Names and shapes are the image network's own, so nothing is inflated. The temporal part and the
    head stay fresh; blocks that a smaller ``model`` lacks are left out (nano takes tiny's file).

    Args:
        model: a fresh network.
        state: tensors by name, of ``focalnet_{tiny,small,base}_srf``.
        preserve_image_function: set every temporal modulator to one, so that training starts at the
            image network's function, frame by frame. As published, a fresh temporal modulator
            shrinks every modulation 20 to 30 fold.

    Raises:
        ValueError: with the report, on any other difference.
    """
    report = _compare(model, state, new_head=True)
    temporal = [name for name in report.taken if _TEMPORAL in name]
    if temporal:
        raise ValueError(f"not an image network: it has {temporal[0]} and others in time")
    blocks = {_block_of(name) for name in model.state_dict()}
    _refuse(
        report,
        missing=[name for name in report.missing if _TEMPORAL not in name],
        unexpected=[name for name in report.unexpected if _block_of(name) in blocks],
    )
    _copy(model, state, report.taken)
    if preserve_image_function:
        for name, tensor in model.state_dict().items():
            if name.endswith(".h_temporal.weight"):
                tensor.zero_()
            elif name.endswith(".h_temporal.bias"):
                tensor.fill_(1.0)
    return report


def _parts(state: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    for name, tensor in sorted(state.items()):
        yield f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode()
        yield tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _compare(model: nn.Module, state: Mapping[str, Tensor], *, new_head: bool) -> LoadReport:
    own = model.state_dict()
    skipped = {name for name in [*own, *state] if new_head and name.startswith(_HEAD)}
    shared = [name for name in own if name in state and name not in skipped]
    fitting = {name for name in shared if own[name].shape == state[name].shape}
    return LoadReport(
        taken=tuple(name for name in shared if name in fitting),
        new_head=tuple(name for name in own if name in skipped),
        missing=tuple(name for name in own if name not in state and name not in skipped),
        unexpected=tuple(name for name in state if name not in own and name not in skipped),
        wrong_shape=tuple(
            f"{name}: {tuple(state[name].shape)}, the network has {tuple(own[name].shape)}"
            for name in shared
            if name not in fitting
        ),
    )


def _refuse(report: LoadReport, *, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise if a tensor is of wrong shape, or missing or unexpected without leave."""
    if any((*missing, *unexpected, *report.wrong_shape)):
        raise ValueError(
            "the weights do not fit the network; was it made with another variant, other sizes or "
            f"another number of classes?\n{report.as_text()}"
        )


def _copy(model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str]) -> None:
    own = model.state_dict()  # detached, but the same memory
    for name in names:
        own[name].copy_(state[name])


def _block_of(name: str) -> str:
    """Return the block that a tensor belongs to; empty for one that is in no block."""
    block = _BLOCK.match(name)
    return block[0] if block else ""
