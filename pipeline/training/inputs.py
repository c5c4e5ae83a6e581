"""The inputs of training steps, which a GPU copies one step ahead of its work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dvflnet.losses import without_label
from dvflnet.mixing import Mixing
from pipeline.errors import PipelineError
from pipeline.views.loader import ClipBatch


@dataclass(frozen=True)
class Inputs:
    """A batch, or the part of one that fits the device at once, as tensors in one place.

    ``frames`` and ``jitter`` are those of a ``ClipBatch``. ``labels`` are int64 ``(B,)``, -1 for
    none, or of mixed clips float32 ``(B, K)``, zeros for none. ``teacher_logits`` are float32
    ``(B, K)``; without these the network learns from labels alone.
    """

    sample_ids: tuple[str, ...]
    frames: Tensor
    jitter: Tensor
    mixing: Mixing | None
    labels: Tensor
    some_unlabelled: bool  # a GPU would be waited for if this was read from its labels
    teacher_logits: Tensor | None

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return replace(
            self,
            frames=change(self.frames),
            jitter=change(self.jitter),
            mixing=self.mixing and Mixing(*map(change, self.mixing)),
            labels=change(self.labels),
            teacher_logits=None if self.teacher_logits is None else change(self.teacher_logits),
        )

    def to(self, device: torch.device) -> Inputs:
        """Copy to the device; a GPU reads pinned memory by itself, so the host does not wait."""
        if device.type == "cuda":
            return self.map(lambda it: it.pin_memory().to(device, non_blocking=True))
        return self.map(lambda it: it.to(device))


def step_inputs(
    batch: ClipBatch, labels: Tensor, teacher_logits: Tensor | None, *, num_parts: int
) -> list[Inputs]:
    """Cut a batch, its labels and its teacher's logits into parts of equal size, on the host."""
    size = len(labels) // num_parts
    parts = batch.parts(num_parts) if num_parts > 1 else (batch,)
    of_teacher = repeat(None) if teacher_logits is None else teacher_logits.split(size)
    return [
        Inputs(
            sample_ids=tuple(request.record.sample_id for request in part.requests),
            frames=torch.from_numpy(part.frames),
            jitter=torch.from_numpy(part.jitter),
            mixing=mixing_of(part),
            labels=known,
            some_unlabelled=bool(without_label(known).any()),
            teacher_logits=logits,
        )
        for part, known, logits in zip(parts, labels.split(size), of_teacher, strict=False)
    ]


def mixing_of(batch: ClipBatch) -> Mixing | None:
    if batch.mixing is None:
        return None
    return Mixing(*map(torch.from_numpy, (batch.mixing.partners, batch.mixing.parameters)))


def new_frames(device: torch.device, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Allocate frames on the host, in pinned memory if a GPU is to copy them."""
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda").numpy()


def on_device(steps: Iterable[list[Inputs]], device: torch.device) -> Iterator[list[Inputs]]:
    """Yield each step's inputs on the device; a GPU copies those of the next step meanwhile.

    What is wrong with the next step is raised after this one.
    """
    if device.type != "cuda":
        yield from steps
        return
    stream, work = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def for_work(tensor: Tensor) -> Tensor:
        tensor.record_stream(work)  # else the next copy could take its memory too early
        return tensor

    ahead = deque[tuple[list[Inputs], list[Inputs], torch.cuda.Event]]()
    source, wrong = iter(steps), None
    while wrong is None and (not ahead or ahead[-1][0]):  # an empty step lets the last one out
        parts: list[Inputs] = []
        try:
            parts = next(source, [])
        except PipelineError as error:
            wrong = error
        with torch.cuda.stream(stream):
            ahead.append((parts, [part.to(device) for part in parts], stream.record_event()))
        if len(ahead) > 1:
            _source, copied, done = ahead.popleft()  # the host's is held until it is read
            done.synchronize()  # with a copy that began a step ago, and not with the GPU's work
            yield [part.map(for_work) for part in copied]
    if wrong is not None:
        raise wrong
