"""The teacher of stage one: its weights checked, and its logits of units of clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dvflnet.videofocalnet import VideoFocalNet
from dvflnet.weights import state_digest
from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import num_classes_of
from pipeline.errors import WeightsMismatch
from pipeline.networks.build import load_network
from pipeline.networks.forward import ClipNetwork, round_weights
from pipeline.networks.weight_files import WeightFile, read_weights


def check_teacher(config: ExperimentConfig, class_names: tuple[str, ...]) -> str:
    """Check the teacher's weights against network and classes, and return their digest.

    Raises:
        WeightsMismatch: if a tensor is missing, unexpected or of another shape, or if the file
            names other classes, or the same in another order.

    """
    file = read_weights(config.teacher_weights_uri)
    _load(config, file, len(class_names))
    if file.class_names and file.class_names != class_names:
        raise WeightsMismatch(_differing_classes(config.teacher_weights_uri, file, class_names))
    return state_digest(file.state)


def teacher_digest(config: ExperimentConfig) -> str:
    """Return the digest of the teacher's weights."""
    return state_digest(read_weights(config.teacher_weights_uri).state)


class TeacherPredictor:
    """A teacher in evaluation mode on one device.

    A clip's logits depend neither on the process nor on the other clips of a batch: all batches
    have one size, and on CPU the number of threads is fixed.

    Raises:
        WeightsMismatch: if the file's weights are not those of ``digest``, which a plan has read.

    """

    def __init__(self, config: ExperimentConfig, *, digest: str | None = None) -> None:
        cluster = config.cluster
        torch.set_num_threads(cluster.teacher_threads)
        self._batch_size = cluster.teacher_batch_size
        device = torch.device("cuda" if cluster.use_gpu else "cpu")
        file = read_weights(config.teacher_weights_uri)
        if digest is not None:
            _check_digest(config.teacher_weights_uri, file, digest)
        network = _load(config, file, num_classes_of(config))
        precision = config.teacher.precision
        if precision != "float32":
            round_weights(network, precision)
        self._network = ClipNetwork(
            network.to(device).eval(), device, precision, config.clip.motion_only
        )

    def logits(
        self, frames: npt.NDArray[np.uint8], jitter: npt.NDArray[np.int16]
    ) -> npt.NDArray[np.float32]:
        """Run all clips of a unit.

        Args:
            frames: uint8 ``(n, T, side, side, 3)``.
            jitter: ``(n, 1 or T, 5)``.

        Returns:
            float32 ``(n, K)``; the head runs in float32 whatever the precision.

        """
        size = self._batch_size
        batches = [
            self._predict(
                _filled(frames[start : start + size], size),
                _filled(jitter[start : start + size], size),
            )
            for start in range(0, len(frames), size)
        ]
        return np.concatenate(batches)[: len(frames)]

    def _predict(
        self, frames: npt.NDArray[np.uint8], jitter: npt.NDArray[np.int16]
    ) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = (
                self._network.exact_logits(frames, jitter).cpu().numpy()
            )
        return logits


def _check_digest(uri: str, file: WeightFile, expected: str) -> None:
    """Refuse a file that was replaced after the plan was made, or that differs on this node."""
    found = state_digest(file.state)
    if found != expected:
        raise WeightsMismatch(
            f"{uri} holds other weights here than those that the store is planned for: digest "
            f"{found[:12]}, expected {expected[:12]}. Do not replace a teacher while it is used; "
            "give a new one another name and another store."
        )


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


def _differing_classes(uri: str, file: WeightFile, class_names: tuple[str, ...]) -> str:
    pairs = zip(file.class_names, class_names, strict=False)
    label, (theirs, ours) = next(
        ((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1]), (-1, ("", ""))
    )
    first = f" (class {label}: {theirs!r} there, {ours!r} here)" if label >= 0 else ""
    return (
        f"{uri} was trained on other classes or in another order{first}: "
        f"{len(file.class_names)} there, {len(class_names)} here. Use the teacher of this data set."
    )
