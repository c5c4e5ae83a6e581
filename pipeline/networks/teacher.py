"""The teacher of stage one: the check of its weights, and its logits of a unit's clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from dvflnet.mixing import Mixing
from dvflnet.videofocalnet import VideoFocalNet
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import WeightsMismatch
from pipeline.networks.build import load_network, network_digest
from pipeline.networks.class_order import read_ordered
from pipeline.networks.foreign import examine
from pipeline.networks.forward import ClipNetwork, autocast, round_weights
from pipeline.networks.numerics import pin_numerics
from pipeline.networks.weight_files import WeightFile
from pipeline.storage.files import exists
from pipeline.views.loader import UNMIXED, ClipMixing, clip_shapes


def check_teacher(config: ExperimentConfig, class_names: Sequence[str]) -> str:
    """Check the teacher's weights against network and classes, and return their digest.

    Raises:
        WeightsMismatch: if a tensor is missing, unexpected or of another shape, or if the classes
            are not known, are others, or stand in another order.
    """
    file, teacher, clip = read_teacher(config, class_names), config.teacher, config.clip
    network = load_network(teacher, file, num_frames=clip.num_frames)
    if teacher.foreign:
        examine(network, teacher.network, len(class_names), (clip.num_frames, clip.side))
    return network_digest(teacher, file)


def teacher_digest(config: ExperimentConfig, class_names: Sequence[str]) -> str:
    """Return the digest of the teacher's weights, with the head in the order of the classes."""
    return network_digest(config.teacher, read_teacher(config, class_names))


def has_teacher(config: ExperimentConfig) -> bool:
    """Return whether the teacher's weights are here: in a file, or in its function."""
    return config.teacher.brings_weights or exists(config.teacher_weights_uri)


def read_teacher(config: ExperimentConfig, class_names: Sequence[str]) -> WeightFile:
    return read_ordered(config.teacher_weights_uri, config, config.teacher, class_names)


class TeacherPredictor:
    """A teacher in evaluation mode on one device.

    A clip's logits depend neither on the process nor on the other clips of a batch: all batches
    have one size, on CPU the number of threads is fixed, and on a GPU the kernels are.

    Raises:
        WeightsMismatch: if the file's weights are not those of ``digest``, which a plan has read.
    """

    def __init__(
        self, config: ExperimentConfig, class_names: Sequence[str], *, digest: str | None = None
    ) -> None:
        cluster = config.cluster
        torch.set_num_threads(cluster.teacher_threads)
        device = torch.device("cuda" if cluster.use_gpu else "cpu")
        file, teacher, clip = read_teacher(config, class_names), config.teacher, config.clip
        if digest is not None and (found := network_digest(teacher, file)) != digest:
            raise WeightsMismatch(
                f"{file.uri} holds other weights here than those that the store "
                f"is planned for: digest {found[:12]}, expected {digest[:12]}. Do not replace a "
                "teacher while it is used; give a new one another name and another store."
            )
        network = load_network(teacher, file, num_frames=clip.num_frames)
        pin_numerics()  # after a foreign network's own code, which may have set something
        precision = teacher.precision
        if isinstance(network, VideoFocalNet) and precision != "float32":
            round_weights(network, precision)
        self._network = ClipNetwork(network.to(device), device, precision, clip.motion_only)
        shapes = clip_shapes(config)
        self._batches = [Batch(cluster.teacher_batch_size, *shapes, device) for _ in range(2)]
        if teacher.foreign:  # on this device and in this precision, before the first unit
            with autocast(device, precision):
                shape = clip.num_frames, clip.side
                examine(network, teacher.network, len(class_names), shape, device)

    def logits(
        self,
        frames: npt.NDArray[np.uint8],
        jitter: npt.NDArray[np.int16],
        mixing: ClipMixing | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the logits of a unit's clips, float32 ``(n, K)``; the head runs in float32."""
        size, parts = len(self._batches[0].frames), []
        order = np.arange(len(frames)) if mixing is None else _pairs_first(mixing.partners)
        with torch.inference_mode():
            for start in range(0, len(order), size):
                batch, places = self._batches[start // size % 2], order[start : start + size]
                batch.fill(frames, jitter, places)
                mixed = None if mixing is None else _mixing_of(mixing, places, size)
                parts.append(self._network.exact_logits(batch.frames, batch.jitter, mixed))
                batch.mark_as_read()
            logits = np.empty((len(order), parts[0].shape[1]), np.float32)
            logits[order] = torch.cat(parts)[: len(order)].cpu().numpy()
            return logits


def _pairs_first(partners: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Order clips so that a batch of even size holds both of each pair, single ones last."""
    own = np.arange(len(partners))
    return np.lexsort((own, np.minimum(own, partners), own == partners))


def _mixing_of(mixing: ClipMixing, places: npt.NDArray[np.int64], size: int) -> Mixing:
    """Return the mixing of a batch that holds the clips at these places, then zeros."""
    partners, parameters = torch.arange(size), torch.tensor([UNMIXED] * size, dtype=torch.int16)
    place_in_batch = {place: number for number, place in enumerate(places.tolist())}
    there = [place_in_batch[partner] for partner in mixing.partners[places].tolist()]
    partners[: len(places)] = torch.tensor(there)
    parameters[: len(places)] = torch.from_numpy(mixing.parameters[places])
    return Mixing(partners, parameters)


class Batch:
    """Clips in memory that a GPU copies from by itself; two take turns, one filled, one at work.

    Kernels are chosen by the size of the batch, and differ in the last bits. So all batches have
    one size, with zeros behind the last clip, and a clip's logits do not depend on the other clips:
    a store that grew equals one that was made at once.
    """

    def __init__(
        self, size: int, clip: Sequence[int], jitter: Sequence[int], device: torch.device
    ) -> None:
        on_gpu = device.type == "cuda"
        self.frames = torch.zeros((size, *clip), dtype=torch.uint8, pin_memory=on_gpu)
        self.jitter = torch.zeros((size, *jitter), dtype=torch.int16, pin_memory=on_gpu)
        self._read = torch.cuda.Event() if on_gpu else None

    def fill(
        self,
        frames: npt.NDArray[np.uint8],
        jitter: npt.NDArray[np.int16],
        places: npt.NDArray[np.int64],
    ) -> None:
        """Copy the clips at ``places`` in: the only copy of a clip on its way to the device."""
        if self._read is not None:
            self._read.synchronize()  # a GPU works behind; it may not have read the last ones yet
        count = len(places)
        for target, values in ((self.frames, frames), (self.jitter, jitter)):
            # Any other mode than clip makes a copy in between.
            np.take(values, places, axis=0, out=target.numpy()[:count], mode="clip")
            target[count:].zero_()

    def mark_as_read(self) -> None:
        """Say that all work on these clips is given to the device."""
        if self._read is not None:
            self._read.record()
