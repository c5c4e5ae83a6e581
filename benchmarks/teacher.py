"""The speed of the teacher: Base as published against ours, with the same weights and logits.

    python -m benchmarks.teacher [--side 224] [--rounds 3] [--precisions float32 bfloat16]
    python -m benchmarks.teacher --device cuda [--batch-sizes 8 16 32 64]

On CPU: one thread, CPU time, and memory in a process of its own for each method. On a GPU: eager,
compiled and channels last, and the share of its bf16 peak. Clips and weights are random.
"""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.hardware import bf16_peak, has_bf16
from benchmarks.published import build_published
from benchmarks.section import options, print_section, say
from benchmarks.timing import device_clock, paired_ratio, take_turns
from dvflnet import build_model
from dvflnet.cost import FLOPS_PER_MAC, count_macs
from pipeline.config.learning import TeacherConfig
from pipeline.networks.build import load_network
from pipeline.networks.forward import PRECISIONS, autocast, round_weights
from pipeline.networks.weight_files import read_weights, write_weights
from pipeline.results.costs import memory_bytes

NUM_CLASSES, NUM_FRAMES = 101, 8
GEMM_SHAPE, GEMM_REPEATS = (1568, 512, 2048), 20  # an MLP's product in the third stage
MEMORY_BATCH_SIZE = 8
EMULATED = "This CPU cannot multiply in bf16: PyTorch emulates it, so bf16 tells nothing here."


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=list(PRECISIONS) if has_bf16() else ["float32"],
        help="on CPU; by default those that this one has",
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_teacher(Path(folder))
        if arguments.device == "cpu":
            report_cpu(weights, arguments.side, arguments.rounds, arguments.precisions)
        else:
            report_gpu(weights, arguments.side, arguments.rounds, arguments.batch_sizes)


def write_teacher(folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / "base.safetensors"
    names = [str(number) for number in range(NUM_CLASSES)]
    network = build_model("base", NUM_CLASSES, NUM_FRAMES)
    write_weights(str(path), network.state_dict(), {}, class_names=names)
    return path


def load_teacher(weights: Path, formulation: str, precision: str) -> nn.Module:
    """Load Base, ours as stage one does it."""
    file = read_weights(str(weights))
    if formulation == "published":
        network: nn.Module = build_published("base", NUM_CLASSES, NUM_FRAMES)
        network.load_state_dict(file.state)
        return network.eval()
    ours = load_network(TeacherConfig(), file, num_frames=NUM_FRAMES)
    if precision != "float32":
        round_weights(ours, precision)
        ours.head.to(PRECISIONS[precision])  # the published code has no float32 head
    return ours


def forward(network: nn.Module, clips: Tensor, precision: str) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode(), autocast(clips.device, precision):
            return network(clips)

    return run


def gemm(device: torch.device, precision: str) -> Callable[[], None]:
    """Return a call of matrix products, which shows the rate that this machine reaches now."""
    rows, inner, columns = GEMM_SHAPE
    tokens = torch.randn(rows, inner, device=device, dtype=PRECISIONS[precision])
    weight = torch.randn(columns, inner, device=device, dtype=PRECISIONS[precision])

    def run() -> None:
        for _ in range(GEMM_REPEATS):
            F.linear(tokens, weight)

    return run


# --- CPU ------------------------------------------------------------------------------------------


def report_cpu(weights: Path, side: int, rounds: int, precisions: Sequence[str]) -> None:
    device = torch.device("cpu")
    clips = torch.randn(1, NUM_FRAMES, 3, side, side)
    published = load_teacher(weights, "published", "float32")
    check_equal(published, load_teacher(weights, "ours", "float32"), clips)
    seconds: dict[str, list[float]] = {}
    for precision in precisions:
        say(f"{precision}: {rounds} rounds")
        methods = {
            f"published {precision}": forward(published, clips, precision),
            f"ours {precision}": forward(
                load_teacher(weights, "ours", precision), clips, precision
            ),
            f"gemm {precision}": gemm(device, precision),
        }
        seconds |= take_turns(methods, device_clock(device), rounds=rounds)
    rows = [
        cpu_row(weights, formulation, precision, seconds, side)
        for precision in precisions
        for formulation in ("published", "ours")
    ]
    print_section(
        f"Teacher: Base, 8 x {side} x {side}, one thread",
        (
            "formulation",
            "precision",
            "CPU s a clip",
            "speed-up over published",
            "share of GEMM rate",
            f"peak MiB, batch {MEMORY_BATCH_SIZE}",
            "CPU s to build and load",
        ),
        rows,
        f"Medians of {rounds} rounds taken in turns; speed-up within a precision; the GEMM rate is "
        f"that of {' x '.join(map(str, GEMM_SHAPE))} in the same rounds. "
        + ("" if has_bf16() else EMULATED),
    )


def cpu_row(
    weights: Path, formulation: str, precision: str, seconds: Mapping[str, list[float]], side: int
) -> list[object]:
    own = seconds[f"{formulation} {precision}"]
    # FLOP a second of the median round, which was as disturbed as the methods' were.
    gemm_flops = GEMM_REPEATS * FLOPS_PER_MAC * math.prod(GEMM_SHAPE)
    flops, anchor = (
        FLOPS_PER_MAC * base_macs(side),
        gemm_flops / median(seconds[f"gemm {precision}"]),
    )
    say(f"memory: {formulation} {precision}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:  # has done nothing else
        measured = apart.submit(measure_memory, weights, formulation, precision, side).result()
    return [
        formulation,
        precision,
        median(own),
        paired_ratio(seconds[f"published {precision}"], own),
        flops / median(own) / anchor,
        *measured,
    ]


def check_equal(published: nn.Module, ours: nn.Module, clips: Tensor) -> None:
    expected, found = (forward(network, clips, "float32")() for network in (published, ours))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def measure_memory(
    weights: Path, formulation: str, precision: str, side: int
) -> tuple[float, float]:
    """Return the peak of this process in MiB, and the seconds of building and loading."""
    torch.set_num_threads(1)
    started = time.process_time()
    network = load_teacher(weights, formulation, precision)
    load_seconds = time.process_time() - started
    forward(network, torch.randn(MEMORY_BATCH_SIZE, NUM_FRAMES, 3, side, side), precision)()
    return memory_bytes("VmHWM") / 2**20, load_seconds


# --- GPU ------------------------------------------------------------------------------------------


def report_gpu(weights: Path, side: int, rounds: int, batch_sizes: Sequence[int]) -> None:
    device = torch.device("cuda")
    published = load_teacher(weights, "published", "bfloat16").to(device)
    ours = load_teacher(weights, "ours", "bfloat16").to(device)
    networks = {
        "published, eager": published,
        "published, compiled": torch.compile(published),
        "ours, eager": ours,
        "ours, compiled": torch.compile(ours),
        "ours, channels last": copy.deepcopy(ours).to(memory_format=torch.channels_last),
    }
    flops, peak = FLOPS_PER_MAC * base_macs(side), bf16_peak(device)
    rows: list[list[object]] = []
    for batch_size in batch_sizes:
        say(f"batch {batch_size}")
        clips = torch.randn(batch_size, NUM_FRAMES, 3, side, side, device=device)
        methods = {name: forward(net, clips, "bfloat16") for name, net in networks.items()}
        seconds = take_turns(methods, device_clock(device), rounds=rounds)
        rows += [
            [
                name,
                batch_size,
                1000 * median(own) / batch_size,
                batch_size / median(own),
                paired_ratio(seconds["published, eager"], own),
                None if peak is None else flops * batch_size / median(own) / peak,
            ]
            for name, own in seconds.items()
        ]
    print_section(
        f"Teacher: Base, 8 x {side} x {side}, bf16, {torch.cuda.get_device_name(device)}",
        ("method", "batch", "ms a clip", "clips/s", "speed-up", "share of bf16 peak"),
        rows,
        f"Medians of {rounds} rounds taken in turns; peak: dense products, by data sheet.",
    )


def base_macs(side: int) -> int:
    with torch.device("meta"):
        network = build_model("base", NUM_CLASSES, NUM_FRAMES)
    return count_macs(network, num_frames=NUM_FRAMES, side=side)


if __name__ == "__main__":
    main()
