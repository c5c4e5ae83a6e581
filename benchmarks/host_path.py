"""The host's work on a clip between the object store and the teacher.

    python -m benchmarks.host_path [--side 224] [--batch-size 64] [--rounds 10] [--device cuda]

Stage one's actor takes units of 256 clips, and its network does nothing but take them to the
device. In turns with it the bytes of the same clips are copied once by numpy: no host is faster
that copies a clip at all. CPU time of one core; with a GPU, time until its copies are there.
"""

from __future__ import annotations

import tempfile
from statistics import median

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from benchmarks.section import options, print_section
from benchmarks.small_experiment import build_experiment
from benchmarks.timing import device_clock, paired_ratio, take_turns
from pipeline.config.experiment import ExperimentConfig
from pipeline.errors import Status
from pipeline.frames.source import read_source
from pipeline.logits.spec import plan_store
from pipeline.networks.teacher import check_teacher
from pipeline.stages.cache_steps import FACTS_SCHEMA, TeacherActor, pixels_added
from pipeline.views.clip import Clip
from pipeline.views.view import EVALUATION_VIEW, build_view

NUM_CLIPS = 256
SMALL = ("dataset.generated.num_groups=2", "dataset.generated.num_val_groups=1")


class Nothing:
    """Stands for the network: logits that no clip had a part in."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._logits = torch.arange(float(num_classes), device=device)

    def exact_logits(self, frames: Tensor, *_: object) -> Tensor:
        frames.to(self._logits.device, non_blocking=True)
        return self._logits.expand(len(frames), -1)


def unit_of_clips(config: ExperimentConfig) -> pa.Table:
    """Return the clips of one unit, as they lie in the object store."""
    record, clip = read_source(config).records[0], config.clip
    view = build_view(config.views, record, EVALUATION_VIEW, num_frames=clip.num_frames)
    pixels = np.random.default_rng(0).integers(0, 256, (clip.num_frames, clip.side, clip.side, 3))
    cut = Clip(pixels.astype(np.uint8), np.zeros(clip.num_frames, np.uint32))
    facts = {"unit": 0, "view_index": 0, "label": 0, "status": int(Status.GOOD), "view_digest": 1}
    table = pa.Table.from_pylist([facts | {"row": row} for row in range(NUM_CLIPS)], FACTS_SCHEMA)
    return pixels_added(table, [(view, cut)] * NUM_CLIPS, config)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    settings = (
        f"clip.side={arguments.side}",
        f"cluster.teacher_batch_size={arguments.batch_size}",
        f"cluster.use_gpu={str(device.type == 'cuda').lower()}",
    )
    with tempfile.TemporaryDirectory() as folder:
        config = build_experiment(folder, *SMALL, *settings)
        manifest = read_source(config)
        digest = check_teacher(config, manifest.class_names)
        spec = plan_store(config, manifest=manifest, teacher_digest=digest)
        actor, block = TeacherActor(config, spec), unit_of_clips(config)
    actor._teacher._network = Nothing(spec.num_classes, device)  # type: ignore[assignment]
    pixels = np.frombuffer(block.column("frames").chunk(0).buffers()[1], np.uint8)
    target = np.zeros(arguments.batch_size * len(pixels) // NUM_CLIPS, np.uint8)

    def copy() -> None:
        for start in range(0, len(pixels), len(target)):
            part = pixels[start : start + len(target)]
            target[: len(part)] = part

    methods = {"stage one": lambda: actor(block), "one copy": copy}
    seconds = take_turns(methods, device_clock(device), rounds=arguments.rounds)
    rows = [
        (name, NUM_CLIPS / median(found), len(pixels) / median(found) / 1e9)
        for name, found in seconds.items()
    ]
    print_section(
        f"The host's part of a teacher on a GPU: 8 x {arguments.side} x {arguments.side}, {device}",
        ("", "clips/s a core", "GB/s"),
        rows,
        f"Units of {NUM_CLIPS} clips in batches of {arguments.batch_size}, a network that does "
        f"nothing. Stage one takes {paired_ratio(seconds['stage one'], seconds['one copy']):.2f} "
        "times as long as copying the same bytes once.",
    )


if __name__ == "__main__":
    main()
