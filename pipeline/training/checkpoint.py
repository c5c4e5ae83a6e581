"""Checkpoints: all that a training run needs to go on bit for bit.

A folder of files. ``checkpoint.json`` is written last and holds the step, what the run is, and the
digests of the others; a folder without it, or whose files differ from it, is no checkpoint.
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
    read_json,
    sha256_of,
    write_bytes,
    write_json,
)
from pipeline.storage.sealed.identity import canonical_json

WEIGHTS = "weights.safetensors"
VAL_LOGITS = "val_logits.safetensors"
OPTIMISER = "optimiser.pt"
RECORD = "checkpoint.json"


@dataclass(frozen=True)
class TrainingState:
    """The state of a run after ``step`` optimiser steps, which took ``seconds``.

    ``val_logits`` is float32 ``(N, K)``, what these weights say of val.
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

    ``facts`` say what the run is; they go into the weights file too, so that it explains itself
    when it travels alone.
    """
    write_weights(join_uri(uri, WEIGHTS), state.weights, facts, class_names=class_names)
    write_weights(join_uri(uri, VAL_LOGITS), {"val_logits": state.val_logits}, facts)
    buffer = io.BytesIO()
    torch.save(state.optimiser, buffer)
    write_bytes(join_uri(uri, OPTIMISER), buffer.getvalue())
    record = {
        "step": state.step,
        "seconds": state.seconds,
        "weights_digest": state_digest(state.weights),
        "val_logits_digest": state_digest({"val_logits": state.val_logits}),
        "optimiser_sha256": sha256_of(buffer.getvalue()),
        "facts": dict(facts),
    }
    write_json(join_uri(uri, RECORD), record | {"digest": sha256_of(canonical_json(record))})


def read_checkpoint(uri: str) -> TrainingState:
    """Read and check a checkpoint.

    Raises:
        StoreCorrupt: if a file is missing, damaged or of another checkpoint.
        WeightsMismatch: if that file is one of weights and cannot be read at all.

    """
    try:
        record = _read_record(join_uri(uri, RECORD))
        weights = read_weights(join_uri(uri, WEIGHTS)).state
        logits = read_weights(join_uri(uri, VAL_LOGITS)).state
        optimiser = read_bytes(join_uri(uri, OPTIMISER))
    except FileNotFoundError as error:
        raise StoreCorrupt(str(error.filename), "a file of the checkpoint", "nothing") from None
    _compare(join_uri(uri, WEIGHTS), record["weights_digest"], state_digest(weights))
    _compare(join_uri(uri, VAL_LOGITS), record["val_logits_digest"], state_digest(logits))
    _compare(join_uri(uri, OPTIMISER), record["optimiser_sha256"], sha256_of(optimiser))
    loaded = _load_optimiser(join_uri(uri, OPTIMISER), optimiser)
    return TrainingState(record["step"], record["seconds"], logits["val_logits"], weights, loaded)


def _read_record(uri: str) -> dict[str, Any]:
    try:
        record = dict(read_json(uri))
        digest = record.pop("digest")
    except (ValueError, TypeError, KeyError) as error:
        raise StoreCorrupt(uri, "the record of a checkpoint", repr(error)) from error
    _compare(uri, digest, sha256_of(canonical_json(record)))
    return record


def _load_optimiser(uri: str, content: bytes) -> dict[str, Any]:
    """Unpickle tensors and plain values; a pickle of anything else is refused unrun."""
    try:
        return dict(torch.load(io.BytesIO(content), weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError) as error:
        raise StoreCorrupt(uri, "tensors and plain values", str(error)) from error


def _compare(uri: str, expected: str, found: str) -> None:
    if found != expected:
        raise StoreCorrupt(uri, f"digest {expected}", f"digest {found}")
