"""The teacher of stage one: its weights checked, and its logits of units of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dvflnet.videofocalnet import VideoFocalNet
from dvflnet.weights import state_digest
from pipeline.config.schema import AS_DATASET, ExperimentConfig
from pipeline.dataset.classes import read_classes
from pipeline.errors import ConfigError, WeightsMismatch
from pipeline.networks.build import load_network
from pipeline.networks.class_order import in_order
from pipeline.networks.forward import ClipNetwork, round_weights
from pipeline.networks.weight_files import WeightFile, read_weights
from pipeline.storage.files import exists


def read_teacher(config: ExperimentConfig, class_names: Sequence[str]) -> WeightFile:
    """Read the teacher's weights, with the rows of the head in the order of the data set.

    Raises:
        WeightsMismatch: if the file names other classes, or the same in another order; or if it
            names none, and ``teacher.class_names`` is not given or does not fit.
    """
    uri = config.teacher_weights_uri
    file = read_weights(uri)
    if file.class_names:
        if file.class_names != tuple(class_names):
            pairs = enumerate(zip(file.class_names, class_names, strict=False))
            first = next(
                (f"class {i}: {a!r} there, {b!r} here; " for i, (a, b) in pairs if a != b), ""
            )
            raise WeightsMismatch(
                f"{uri} was trained on other classes or in another order ({first}"
                f"{len(file.class_names)} there, {len(class_names)} here). "
                "Use the teacher of this data set."
            )
        return file
    try:
        state = in_order(file.state, _head_names(config, class_names), class_names)
    except ValueError as error:
        raise WeightsMismatch(f"{uri} and teacher.class_names: {error}") from error
    return replace(file, state=state)


def _head_names(config: ExperimentConfig, class_names: Sequence[str]) -> Sequence[str]:
    """Return the class names of a head whose file names none, as the config has them."""
    given = config.teacher.class_names
    if given is None:
        raise WeightsMismatch(
            f"{config.teacher_weights_uri} names no classes, so the order of its head is not known."
            "\n  Set teacher.class_names to the names in the head's order: a list, or a text file "
            f"with a name a line.\n  '{AS_DATASET}' claims that the order is the data set's."
        )
    if given == AS_DATASET:
        return class_names
    if not isinstance(given, str):
        return given
    if not exists(given):
        raise ConfigError(f"teacher.class_names: there is no file {given}")
    return tuple(read_classes(given).values())


def check_teacher(config: ExperimentConfig, class_names: Sequence[str]) -> str:
    """Check the teacher's weights against network and classes, and return their digest.

    Raises:
        WeightsMismatch: if a tensor is missing, unexpected or of another shape, or if the classes
            are not known, are others, or stand in another order.
    """
    file = read_teacher(config, class_names)
    _load(config, file, len(class_names))
    return state_digest(file.state)


def teacher_digest(config: ExperimentConfig, class_names: Sequence[str]) -> str:
    """Return the digest of the teacher's weights, with the head in the order of the classes."""
    return state_digest(read_teacher(config, class_names).state)


class TeacherPredictor:
    """A teacher in evaluation mode on one device.

    A clip's logits depend neither on the process nor on the other clips of a batch: all batches
    have one size, and on CPU the number of threads is fixed.

    Raises:
        WeightsMismatch: if the file's weights are not those of ``digest``, which a plan has read.
    """

    def __init__(
        self, config: ExperimentConfig, class_names: Sequence[str], *, digest: str | None = None
    ) -> None:
        cluster = config.cluster
        torch.set_num_threads(cluster.teacher_threads)
        self._batch_size = cluster.teacher_batch_size
        device = torch.device("cuda" if cluster.use_gpu else "cpu")
        file = read_teacher(config, class_names)
        if digest is not None and (found := state_digest(file.state)) != digest:
            raise WeightsMismatch(
                f"{config.teacher_weights_uri} holds other weights here than those that the store "
                f"is planned for: digest {found[:12]}, expected {digest[:12]}. Do not replace a "
                "teacher while it is used; give a new one another name and another store."
            )
        network = _load(config, file, len(class_names))
        precision = config.teacher.precision
        if precision != "float32":
            round_weights(network, precision)
        self._network = ClipNetwork(
            network.to(device).eval(), device, precision, config.clip.motion_only
        )

    def logits(
        self, frames: npt.NDArray[np.uint8], jitter: npt.NDArray[np.int16]
    ) -> npt.NDArray[np.float32]:
        """Return the logits of a unit's clips, float32 ``(n, K)``; the head runs in float32."""
        size, starts = self._batch_size, range(0, len(frames), self._batch_size)
        parts = [(frames[i : i + size], jitter[i : i + size]) for i in starts]
        with torch.inference_mode():
            batches = [
                self._network.exact_logits(_filled(clips, size), _filled(rows, size)).cpu().numpy()
                for clips, rows in parts
            ]
        return np.concatenate(batches)[: len(frames)]


def _filled(values: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Add zeros up to ``size`` entries.

    Kernels are chosen by the size of the batch, and differ in the last bits. With one size a clip's
    logits do not depend on the other clips, so a store that grew equals one that was made at once.
    """
    padding = [(0, size - len(values)), *[(0, 0)] * (values.ndim - 1)]
    return np.pad(values, padding)


def _load(config: ExperimentConfig, file: WeightFile, num_classes: int) -> VideoFocalNet:
    num_frames = config.clip.num_frames
    try:
        return load_network(config.teacher, file, num_classes=num_classes, num_frames=num_frames)
    except ValueError as error:
        raise WeightsMismatch(f"{config.teacher_weights_uri}: {error}") from error
