"""The files of a training run, and its checkpoints: all that it needs to go on bit for bit.

A checkpoint is a folder. Its ``checkpoint.json`` is written last and holds the step, facts about
the run and the digests of the other files; a folder without it, or whose files differ from it, is
no checkpoint.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dvflnet.weights import state_digest
from pipeline.errors import StoreCorrupt
from pipeline.networks.weight_files import read_weights, write_weights
from pipeline.storage.files import (
    join_uri,
    read_bytes,
    read_record,
    sha256_of,
    write_bytes,
    write_record,
)


class CheckpointFiles:
    """URIs of the files of one checkpoint, in its folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.weights = join_uri(folder, "weights.safetensors")
        self.val_logits = join_uri(folder, "val_logits.safetensors")
        self.optimiser = join_uri(folder, "optimiser.pt")
        self.record = join_uri(folder, "checkpoint.json")


class RunFiles:
    """URIs of the files of a run, in its folder.

    ``best`` are the weights of the epoch with the highest top-1 on val; of equal ones, that with
    the lowest NLL. ``result`` is written last: a run without it is unfinished. ``snapshot`` is Ray
    Train's record of all reports, whose name is Ray's.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.best = join_uri(folder, "best.safetensors")
        self.last = join_uri(folder, "last.safetensors")
        self.result = join_uri(folder, "result.json")
        self.snapshot = join_uri(folder, "checkpoint_manager_snapshot.json")
        self.snapshot_copy = join_uri(folder, "snapshot_copy.json")

    def checkpoint(self, name: str) -> CheckpointFiles:
        """Return the files of a checkpoint, from its name or from Ray's path without a scheme."""
        return CheckpointFiles(join_uri(self.folder, name.rstrip("/").rpartition("/")[2]))


def checkpoint_name(epoch: int) -> str:
    """Return the folder of the checkpoint that is written after ``epoch`` epochs."""
    return f"epoch_{epoch:04d}"


@dataclass(frozen=True)
class TrainingState:
    """The state of a run after ``step`` optimiser steps, which took ``seconds``.

    ``val_logits`` is float32 ``(N, K)``, these weights' logits of val.
    """

    step: int
    seconds: float
    val_logits: Tensor
    weights: Mapping[str, Tensor]
    optimiser: dict[str, Any]


def write_checkpoint(
    uri: str, state: TrainingState, *, class_names: tuple[str, ...], facts: Mapping[str, str]
) -> None:
    """Write a state to the folder at ``uri``, ``checkpoint.json`` last.

    ``facts`` describe the run. They go into the weights file too, which is copied out of the folder
    and must explain itself there.
    """
    files = CheckpointFiles(uri)
    write_weights(files.weights, state.weights, facts, class_names=class_names)
    write_weights(files.val_logits, {"val_logits": state.val_logits}, facts)
    buffer = io.BytesIO()
    torch.save(state.optimiser, buffer)
    write_bytes(files.optimiser, buffer.getvalue())
    record = {
        "step": state.step,
        "seconds": state.seconds,
        "weights_digest": state_digest(state.weights),
        "val_logits_digest": state_digest({"val_logits": state.val_logits}),
        "optimiser_sha256": sha256_of(buffer.getvalue()),
        "facts": dict(facts),
    }
    write_record(files.record, record)


def read_checkpoint(uri: str) -> TrainingState:
    """Read and check a checkpoint.

    StoreCorrupt if a file is missing, damaged or of another checkpoint; WeightsMismatch if a file
    of weights cannot be parsed at all.
    """
    files = CheckpointFiles(uri)
    try:
        record = read_record(files.record)
        weights = read_weights(files.weights).state
        logits = read_weights(files.val_logits).state
        optimiser = read_bytes(files.optimiser)
    except FileNotFoundError as error:
        raise StoreCorrupt(str(error.filename), "a file of the checkpoint", "nothing") from None
    _compare(files.weights, record["weights_digest"], state_digest(weights))
    _compare(files.val_logits, record["val_logits_digest"], state_digest(logits))
    _compare(files.optimiser, record["optimiser_sha256"], sha256_of(optimiser))
    try:  # tensors and plain values; a pickle of anything else is refused before it runs
        loaded = dict(torch.load(io.BytesIO(optimiser), weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError) as error:
        raise StoreCorrupt(files.optimiser, "tensors and plain values", str(error)) from error
    return TrainingState(record["step"], record["seconds"], logits["val_logits"], weights, loaded)


def _compare(uri: str, expected: str, found: str) -> None:
    if found != expected:
        raise StoreCorrupt(uri, f"digest {expected}", f"digest {found}")
