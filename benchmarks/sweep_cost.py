"""The cost of n students from one cache, against n students with a live teacher each.

    python -m benchmarks.sweep_cost [--side 112] [--epochs 120] [--views 8]

Measures what one clip costs, of every part and in one process, on one core: decoding, Base teacher
and journal of stage one; decoding and training step of a nano student. Then it adds up whole
sweeps. The videos are small drawn ones, so that decoding is cheap on both sides.
"""

from __future__ import annotations

import argparse
import tempfile

from benchmarks.section import options, print_section, say
from benchmarks.small_experiment import build_experiment
from pipeline.results.forecast import ClusterShape
from pipeline.stages.forecast import ExperimentForecast, forecast_experiment

ONE_CORE = ClusterShape(num_nodes=1, cpus_per_node=1, gpus_per_node=0)
NUM_STUDENTS = (1, 3, 9, 36)
SIZES = ("embed_dim", "depths")
COLUMNS = (
    "students",
    "teacher's clips, cached",
    "teacher's clips, live",
    "core hours, cached",
    "core hours, live",
    "live / cached",
)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--views", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = build_experiment(
            folder,
            "dataset.generated.num_groups=3",
            "dataset.generated.num_val_groups=1",
            *(f"{role}.{name}=null" for role in ("teacher", "student") for name in SIZES),
            "teacher.variant=base",
            "student.variant=nano",
            f"clip.side={arguments.side}",
            f"views.num_views={arguments.views}",
            f"train.epochs={arguments.epochs}",
            "store.clips_per_unit=8",
        )
        say("unit costs")
        found = forecast_experiment(config, ONE_CORE)
    print_section(
        "A sweep from one cache against live teachers",
        COLUMNS,
        [row(found, num_students) for num_students in NUM_STUDENTS],
        describe(found, arguments),
    )


def row(found: ExperimentForecast, num_students: int) -> list[object]:
    run, work = found.run, found.run.workload
    cached = run.stage_one_hours + num_students * run.cached_hours
    live = num_students * run.live_hours
    return [
        num_students,
        work.num_cached_clips,
        num_students * work.num_epochs * work.num_train_clips,
        cached,
        live,
        live / cached,
    ]


def describe(found: ExperimentForecast, arguments: argparse.Namespace) -> str:
    costs, run = found.costs, found.run
    milliseconds = {
        "teacher": costs.teacher_seconds,
        "decoding and journal of stage one": costs.decode_seconds + costs.journal_seconds,
        "student's decoding": costs.student_decode_seconds,
        "student's step": costs.student_step_seconds,
    }
    parts = ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in milliseconds.items())
    return (
        f"Base teacher, nano student, 8 x {arguments.side} x {arguments.side}, "
        f"{arguments.epochs} epochs on {run.workload.num_train_clips} videos, {arguments.views} "
        f"views of each cached. CPU ms a clip: {parts}. The cache is paid for after "
        f"{run.break_even_epochs:.1f} epochs; with more students the ratio goes to "
        f"{run.live_hours / run.cached_hours:.2f}, what one epoch saves."
    )


if __name__ == "__main__":
    main()
