"""The cache's saving in a student's step: cached targets against a teacher in the loop.

    python -m benchmarks.student_step [--side 224] [--rounds 3]
    python -m benchmarks.student_step --device cuda [--batch-sizes 8 16 32 64]

Base teacher, 8 frames, random weights and clips: the arithmetic is that of training, and nothing is
decoded. The teacher in the loop is once the published formulation and once our faster one, which is
the fair comparison. On CPU: fp32, batch 1, one thread, CPU time; on a GPU: bf16, eager, compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.hardware import bf16_peak
from benchmarks.published import build_published
from benchmarks.section import options, print_section, say
from benchmarks.timing import device_clock, paired_ratio, take_turns
from dvflnet import build_model, weighted_loss
from dvflnet.cost import FLOPS_PER_MAC, count_macs, count_parameters
from pipeline.networks.forward import autocast

NUM_CLASSES, NUM_FRAMES = 101, 8
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}
STUDENTS = {"nano": 96, "half as wide": 48}  # width of the first stage, in nano's depths
BACKWARD_FORWARDS = 2  # what a backward pass costs, in forward passes
COLUMNS = (
    "student",
    "M params",
    "batch",
    "mode",
    "cached, ms a clip",
    "live / cached, published teacher",
    "live / cached, our teacher",
    "ceiling by arithmetic",
    "share of bf16 peak",
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    teachers = build_teachers(device)
    rows = [
        measure(teachers, width, (batch_size, arguments.side), arguments.rounds, compiled=compiled)
        for width in STUDENTS.values()
        for batch_size in (arguments.batch_sizes if on_gpu else [1])
        for compiled in ([False, True] if on_gpu else [False])
    ]
    size = f"8 x {arguments.side} x {arguments.side}"
    place = f"bf16, {torch.cuda.get_device_name(device)}" if on_gpu else "fp32, one thread"
    print_section(
        f"Student step: cached against live teacher, {size}, {place}",
        COLUMNS,
        rows,
        f"Base teacher; medians of {arguments.rounds} rounds taken in turns. The ceiling counts "
        "multiply-adds only, with a backward pass as two forward passes.",
    )


def build_teachers(device: torch.device) -> dict[str, nn.Module]:
    ours = build_model("base", NUM_CLASSES, NUM_FRAMES)
    published = build_published("base", NUM_CLASSES, NUM_FRAMES)
    published.load_state_dict(ours.state_dict())
    networks: dict[str, nn.Module] = {"published": published, "ours": ours}
    return {name: network.to(device).eval() for name, network in networks.items()}


def measure(
    teachers: dict[str, nn.Module],
    width: int,
    batch: tuple[int, int],
    rounds: int,
    *,
    compiled: bool,
) -> list[object]:
    """Measure one row; ``batch`` is clips and side."""
    batch_size, side = batch
    device = next(teachers["ours"].parameters()).device
    say(f"width {width}, batch {batch_size}, compiled {compiled}")
    student = build_model("nano", NUM_CLASSES, NUM_FRAMES, embed_dim=width).to(device)
    clips = torch.randn(batch_size, NUM_FRAMES, 3, side, side, device=device)
    step = build_step(torch.compile(student) if compiled else student, clips)
    cached = torch.randn(batch_size, NUM_CLASSES, device=device)
    methods = {"cached": lambda: step(lambda: cached)}
    for name, teacher in teachers.items():
        live = live_teacher(torch.compile(teacher) if compiled else teacher, clips)
        methods[name] = lambda live=live: step(live)
    seconds = take_turns(methods, device_clock(device), rounds=rounds)
    passes = 1 + BACKWARD_FORWARDS
    student_macs, teacher_macs = (
        count_macs(network, num_frames=NUM_FRAMES, side=side)
        for network in (student, teachers["ours"])
    )
    seconds_a_clip = median(seconds["cached"]) / batch_size
    peak = bf16_peak(device)
    return [
        next(name for name, other in STUDENTS.items() if other == width),
        count_parameters(student) / 1e6,
        batch_size,
        "compiled" if compiled else "eager",
        1000 * seconds_a_clip,
        paired_ratio(seconds["published"], seconds["cached"]),
        paired_ratio(seconds["ours"], seconds["cached"]),
        1 + teacher_macs / (passes * student_macs),
        None if peak is None else FLOPS_PER_MAC * passes * student_macs / seconds_a_clip / peak,
    ]


def build_step(student: nn.Module, clips: Tensor) -> Callable[[Callable[[], Tensor]], None]:
    labels = torch.zeros(len(clips), dtype=torch.long, device=clips.device)
    optimiser = torch.optim.SGD(
        student.parameters(), lr=1e-4, momentum=0.9, nesterov=True, fused=True
    )

    def step(teacher_logits: Callable[[], Tensor]) -> None:
        with autocast(clips.device, PRECISION[clips.device.type]):
            student_logits = student(clips)
        parts = weighted_loss(
            student_logits,
            teacher_logits(),
            labels,
            distill_weight=0.2,
            temperature=10.0,
            label_smoothing=0.1,
        )
        optimiser.zero_grad(set_to_none=True)
        parts.loss.backward()
        optimiser.step()

    return step


def live_teacher(teacher: nn.Module, clips: Tensor) -> Callable[[], Tensor]:
    def logits() -> Tensor:
        with torch.no_grad(), autocast(clips.device, PRECISION[clips.device.type]):
            return teacher(clips)

    return logits


if __name__ == "__main__":
    main()
