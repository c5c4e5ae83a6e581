"""The inputs of training steps, which a GPU copies one step ahead of its work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dvflnet.losses import without_label
from dvflnet.mixing import Mixing
from pipeline.views.loader import ClipBatch


@dataclass(frozen=True)
class PartInputs:
    """A batch, or the part of one that fits the device at once, as tensors in one place.

    ``frames`` and ``jitter`` are those of a ``ClipBatch``. ``labels`` are int64 ``(B,)``, -1 for
    none, or of mixed clips float32 ``(B, K)``, zeros for none. ``teacher_logits`` are float32
    ``(B, K)``; without these the network learns from labels alone.
    """

    frames: Tensor
    jitter: Tensor
    mixing: Mixing | None
    labels: Tensor
    teacher_logits: Tensor | None
    some_unlabelled: bool  # known on the host: reading it from labels on a GPU would wait for it

    @property
    def tensors(self) -> list[Tensor]:
        given = (self.frames, self.jitter, *(self.mixing or ()), self.labels, self.teacher_logits)
        return [tensor for tensor in given if tensor is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> PartInputs:
        logits = self.teacher_logits
        return PartInputs(
            frames=change(self.frames),
            jitter=change(self.jitter),
            mixing=None if self.mixing is None else Mixing(*map(change, self.mixing)),
            labels=change(self.labels),
            teacher_logits=None if logits is None else change(logits),
            some_unlabelled=self.some_unlabelled,
        )


@dataclass(frozen=True)
class StepInputs:
    """The parts whose gradients make one step, and the samples in them."""

    sample_ids: tuple[str, ...]
    parts: tuple[PartInputs, ...]

    def to(self, device: torch.device) -> StepInputs:
        """Copy to the device, which reads pinned memory by itself: the host does not wait."""

        def copied(tensor: Tensor) -> Tensor:
            pinned = tensor.pin_memory() if device.type == "cuda" else tensor
            return pinned.to(device, non_blocking=True)

        return StepInputs(self.sample_ids, tuple(part.map(copied) for part in self.parts))


def step_inputs(
    batch: ClipBatch, labels: Tensor, teacher_logits: Tensor | None, *, num_parts: int
) -> StepInputs:
    """Cut a batch, its labels and its teacher's logits into parts of equal size, on the host."""
    parts, start = [], 0
    for part in batch.parts(num_parts) if num_parts > 1 else (batch,):
        rows = slice(start, start := start + len(part.requests))
        parts.append(
            PartInputs(
                frames=torch.from_numpy(part.frames),
                jitter=torch.from_numpy(part.jitter),
                mixing=mixing_of(part),
                labels=labels[rows],
                teacher_logits=None if teacher_logits is None else teacher_logits[rows],
                some_unlabelled=bool(without_label(labels[rows]).any()),
            )
        )
    sample_ids = tuple(request.record.sample_id for request in batch.requests)
    return StepInputs(sample_ids, tuple(parts))


def mixing_of(batch: ClipBatch) -> Mixing | None:
    if batch.mixing is None:
        return None
    return Mixing(*map(torch.from_numpy, (batch.mixing.partners, batch.mixing.parameters)))


def new_frames(device: torch.device, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Allocate frames on the host, in pinned memory if a GPU is to copy them."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda").numpy()


def on_device(steps: Iterable[StepInputs], device: torch.device) -> Iterator[StepInputs]:
    """Yield the inputs on the device; a GPU copies those of the next step during this one."""
    if device.type != "cuda":
        yield from steps
        return
    stream, ahead = torch.cuda.Stream(device), None
    for inputs in steps:
        with torch.cuda.stream(stream):
            following = _Copy(inputs, inputs.to(device), stream.record_event())
        if ahead is not None:
            yield ahead.finished()
        ahead = following
    if ahead is not None:
        yield ahead.finished()


@dataclass(frozen=True)
class _Copy:
    """Inputs under way; the host's are held until they are read."""

    source: StepInputs
    copied: StepInputs
    done: torch.cuda.Event

    def finished(self) -> StepInputs:
        self.done.synchronize()  # of the copy, begun a step ago; the work on the GPU goes on
        for part in self.copied.parts:
            for tensor in part.tensors:  # or the next copy could take their memory too early
                tensor.record_stream(torch.cuda.current_stream())
        return self.copied
