"""Costs of the networks for one clip: parameters, multiply-adds, peak memory, latency.

Memory and time are measured in a fresh process for each network, because the peak of a process
includes everything that it did before.

Published costs are from arXiv 2507.12426 (DVFL-Net), 2307.06947 (Video-FocalNets) and their
repositories. Both count one clip of 8 frames of 224 x 224 with thop, and write "GFLOPs" for
multiply-adds: only then do tiny and small agree with ours to 0.3 %. A multiply-add is two floating
point operations, so true GFLOP are twice as many.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import nn

from dvflnet.cost import FLOPS_PER_MAC, count_macs, count_parameters
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.learning import ModelConfig
from pipeline.dataset.manifest import num_classes_of
from pipeline.networks.build import build_network
from pipeline.storage.files import write_json
from pipeline.text_table import markdown_table
from pipeline.tracking.progress import Progress

NUM_CALLS = 50  # timed calls; after MAX_SECONDS fewer will do
MIN_CALLS = 5
MAX_SECONDS = 20.0
NUM_FRAMES, SIDE, NUM_CLASSES = 8, 224, 101  # of the published counts
# variant -> parameters in millions, and multiply-adds in billions if they are published
CLAIMS = {"nano": (22, None), "tiny": (49, 63), "small": (88, 124), "base": (157, 149)}
CLAIMED_RATIO = 7.0  # the abstract calls the student "about 7x" smaller than the teacher
NOTES = (
    'The papers\' "GFLOPs" are multiply-adds (GMAC); GFLOP are twice that.',
    "base: the published 149 is not what the published code computes. Base is 4/3 as wide as small "
    "and as deep, so it must cost about (4/3)^2 = 1.78 times small's 124.",
    "nano: no figure in the repositories.",
)


@dataclass(frozen=True)
class Subject:
    """A network and the clip that it is measured on."""

    name: str
    model: ModelConfig
    num_classes: int
    num_frames: int
    side: int

    def build(self) -> nn.Module:
        sizes = {"num_classes": self.num_classes, "num_frames": self.num_frames}
        return build_network(self.model, **sizes).eval()


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, in milliseconds."""

    p50_ms: float
    p95_ms: float
    num_calls: int


@dataclass(frozen=True)
class ModelCost:
    """Costs of one clip, forward, float32, on the CPU."""

    name: str
    clip: tuple[int, int, int]  # T, H, W
    num_parameters: int
    num_macs: int
    peak_bytes: int  # the most memory that the process held
    network_bytes: int  # the part of it that holds weights and activations
    latency: Latency

    @property
    def num_flops(self) -> int:
        return FLOPS_PER_MAC * self.num_macs


def run_model_costs(config: ExperimentConfig, *, published: bool, json_uri: str | None) -> None:
    """Measure and print the costs of the experiment's networks, beside those that papers claim.

    With ``published``, measure the published variants, too: base needs 1 GiB and minutes.
    """
    own = [subject for subject in own_subjects(config) if not subject.model.is_program]
    subjects = own + (published_subjects() if published else [])
    num_threads = config.cluster.worker_threads
    costs = measure_models(subjects, num_threads=num_threads)
    if json_uri is not None:
        write_json(json_uri, [asdict(cost) | {"num_flops": cost.num_flops} for cost in costs])
    print(f"Forward pass of one clip, float32, {num_threads} CPU threads\n\n{costs_table(costs)}")
    clip = f"{NUM_FRAMES} x {SIDE} x {SIDE}"
    print(f"\nPublished and counted, clips of {clip}, {NUM_CLASSES} classes\n\n{claims_table()}")


def own_subjects(config: ExperimentConfig) -> list[Subject]:
    """Return the experiment's teacher and student, each on its own clips."""
    num_classes, clip = num_classes_of(config), config.clip
    return [
        Subject("teacher", config.teacher, num_classes, clip.num_frames, clip.side),
        Subject(
            "student", config.student, num_classes, config.student_num_frames, config.student_side
        ),
    ]


def published_subjects() -> list[Subject]:
    """Return the published variants on the clips that papers count."""
    return [
        Subject(name, ModelConfig.model_validate({"variant": name}), NUM_CLASSES, NUM_FRAMES, SIDE)
        for name in CLAIMS
    ]


def measure_models(subjects: Sequence[Subject], *, num_threads: int) -> list[ModelCost]:
    """Measure networks one after the other, each in a fresh process."""
    costs = []
    with Progress("measure", len(subjects), "networks") as progress:
        for subject in subjects:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                costs.append(pool.submit(_measure, subject, num_threads).result())
            progress.advance(1, subject.name)
    return costs


def count_costs(subject: Subject) -> tuple[int, int]:
    """Return parameters and multiply-adds, without allocating the network."""
    with nullcontext() if subject.model.foreign else torch.device("meta"):
        network = subject.build()  # a function may load weights, and those are real
    macs = count_macs(network, num_frames=subject.num_frames, side=subject.side)
    return count_parameters(network), macs


def measure_latency(call: Callable[[], object]) -> Latency:
    """Time calls one after the other; the first two are not counted."""
    for _ in range(2):
        call()
    seconds: list[float] = []
    while len(seconds) < NUM_CALLS and (len(seconds) < MIN_CALLS or sum(seconds) < MAX_SECONDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    p50, p95 = np.percentile(1000 * np.array(seconds), [50, 95])
    return Latency(float(p50), float(p95), len(seconds))


def memory_bytes(field: str) -> int:
    """Return VmRSS, the memory of this process, or VmHWM, its peak.

    Linux is read itself, since the peak of ``getrusage`` is the parent's, too; macOS has no other.
    """
    if sys.platform == "darwin":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes there
        return {"VmRSS": psutil.Process().memory_info().rss, "VmHWM": peak}[field]
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise OSError(f"/proc/self/status has no {field}")


def costs_table(costs: Sequence[ModelCost]) -> str:
    memory, latency = ("network MiB", "process MiB"), ("p50 ms", "p95 ms")
    lines = [
        (
            cost.name,
            " x ".join(map(str, cost.clip)),
            f"{cost.num_parameters / 1e6:.3f}",
            f"{cost.num_macs / 1e9:.4g}",
            f"{cost.num_flops / 1e9:.4g}",
            f"{cost.network_bytes / 2**20:.0f}",
            f"{cost.peak_bytes / 2**20:.0f}",
            f"{cost.latency.p50_ms:.1f}",
            f"{cost.latency.p95_ms:.1f}",
        )
        for cost in costs
    ]
    return markdown_table(("", "clip", "params (M)", "GMAC", "GFLOP", *memory, *latency), lines)


def claims_table() -> str:
    """Lay the published costs beside the counted ones, with notes."""
    header = ("", "params (M)", "published", "GMAC", 'published "GFLOPs"', "off by")
    counted = {subject.name: count_costs(subject) for subject in published_subjects()}
    lines = []
    for name, (num_parameters, num_macs) in counted.items():
        params, gmacs = CLAIMS[name]
        claim = (f"{gmacs:g}", f"{num_macs / 1e9 / gmacs - 1:+.1%}") if gmacs else ("-", "-")
        own = (name, f"{num_parameters / 1e6:.2f}", f"{params:g}", f"{num_macs / 1e9:.1f}")
        lines.append((*own, *claim))
    (params, macs), (nano_params, nano_macs) = counted["base"], counted["nano"]
    ratio = (
        f"base / nano: {params / nano_params:.2f} in parameters, {macs / nano_macs:.2f} in "
        f"multiply-adds; the abstract claims about {CLAIMED_RATIO:g}, which fits the parameters."
    )
    notes = [f"- {note}" for note in (*NOTES, ratio)]
    return "\n".join([markdown_table(header, lines), "", *notes])


def _measure(subject: Subject, num_threads: int) -> ModelCost:
    torch.set_num_threads(num_threads)
    # PyTorch loads its kernels, which are the same for every network.
    nn.functional.conv2d(torch.zeros(1, 8, 8, 8), torch.zeros(8, 8, 3, 3))
    nn.functional.linear(torch.zeros(8, 8), torch.zeros(8, 8))
    before = memory_bytes("VmRSS")
    network = subject.build()
    clip = torch.zeros((1, subject.num_frames, 3, subject.side, subject.side))
    with torch.inference_mode():
        network(clip)  # The peak is read before timing, which holds memory of its own.
        peak = memory_bytes("VmHWM")
        latency = measure_latency(lambda: network(clip))
    num_parameters, num_macs = count_costs(subject)
    return ModelCost(
        name=subject.name,
        clip=(subject.num_frames, subject.side, subject.side),
        num_parameters=num_parameters,
        num_macs=num_macs,
        peak_bytes=peak,
        network_bytes=max(peak - before, 0),
        latency=latency,
    )
