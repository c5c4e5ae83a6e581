"""What does the cache save in a student's step? Cached targets against a teacher in the loop.

    python benchmarks/student_step.py [--side 224] [--batch-size 1] [--rounds 5]

Base teacher, nano student, 8 frames, fp32, one thread, random weights and clips: the arithmetic is
that of training, and nothing is decoded. Methods take turns in one process; the figure is CPU time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from dvflnet import build_model, weighted_loss
from dvflnet.cost import count_macs

NUM_CLASSES, NUM_FRAMES = 101, 8


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    teacher = build_model("base", NUM_CLASSES, NUM_FRAMES).eval()
    student = build_model("nano", NUM_CLASSES, NUM_FRAMES)
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    shape = (arguments.batch_size, NUM_FRAMES, 3, arguments.side, arguments.side)
    clips, labels = torch.randn(shape), torch.zeros(arguments.batch_size, dtype=torch.long)
    cached = torch.randn(arguments.batch_size, NUM_CLASSES)

    def step(teacher_logits: Callable[[], torch.Tensor]) -> None:
        parts = weighted_loss(
            student(clips),
            teacher_logits(),
            labels,
            distill_weight=0.2,
            temperature=10.0,
            label_smoothing=0.1,
        )
        optimiser.zero_grad(set_to_none=True)
        parts.loss.backward()
        optimiser.step()

    def live() -> torch.Tensor:
        with torch.inference_mode():
            return teacher(clips).clone()

    methods = {"cached": lambda: step(lambda: cached), "live teacher": lambda: step(live)}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(arguments.rounds + 1):
        for name, method in methods.items():
            started = time.process_time()
            method()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - started)
    report(seconds, teacher, student, arguments.side)


def report(
    seconds: dict[str, list[float]], teacher: torch.nn.Module, student: torch.nn.Module, side: int
) -> None:
    teacher_macs, student_macs = (
        count_macs(model, num_frames=NUM_FRAMES, side=side) for model in (teacher, student)
    )
    for name, values in seconds.items():
        print(f"{name:13}  {min(values):7.2f} s CPU a step (median {median(values):.2f})")
    paired = [live / cached for cached, live in zip(*seconds.values(), strict=True)]
    print(f"live / cached  {median(paired):.2f} (median of pairs)")
    print(f"ceiling        {1 + teacher_macs / (3 * student_macs):.2f} by arithmetic")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
