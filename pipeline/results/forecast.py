"""The forecast of a run: pure arithmetic from unit costs and the shape of a cluster.

A stage that streams is as fast as its slowest part, or as all its CPUs together. Stage one decodes
on CPUs and runs the teacher on GPUs, or on CPUs where there are none; stage two decodes one view
for every clip that the student sees. A cache costs one stage one, and saves the teacher's time in
every epoch of every student.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.text_table import text_table

SECONDS_PER_HOUR = 3600.0
CPUS = "CPUs"  # the bottleneck if decoding and the network share the CPUs, and all are busy


@dataclass(frozen=True)
class UnitCosts:
    """Seconds per clip on one core; those of networks on one device, which is a GPU or a core."""

    decode_seconds: float  # of stage one, where all views of a video come from one pass
    teacher_seconds: float  # forward
    journal_seconds: float  # writing the logits, and passing a unit on through Ray, on a core
    student_decode_seconds: float  # of stage two: one view of a video a visit
    student_step_seconds: float  # forward, backward and optimiser, with cached targets


@dataclass(frozen=True)
class ClusterShape:
    """A cluster of equal nodes. Without GPUs the networks run on the CPUs, a thread each."""

    num_nodes: int
    cpus_per_node: float
    gpus_per_node: int
    max_decoders: int | None = None  # of the whole cluster; none: as many as there are CPUs
    max_devices: int | None = None  # teachers, or training workers; none: one a GPU, or one a CPU

    @property
    def num_cpus(self) -> float:
        return self.num_nodes * self.cpus_per_node

    @property
    def num_gpus(self) -> int:
        return self.num_nodes * self.gpus_per_node


@dataclass(frozen=True)
class Workload:
    """The number of clips, classes, frames and epochs of a run."""

    num_cached_clips: int
    num_classes: int
    num_frames: int
    num_train_clips: int  # of one epoch
    num_epochs: int

    @property
    def num_trained_clips(self) -> int:
        return self.num_train_clips * self.num_epochs

    @property
    def num_bytes(self) -> int:
        """Size of the store before compression: float16 logits, offset, status and proofs."""
        return self.num_cached_clips * (2 * self.num_classes + 13 + 4 * self.num_frames)


@dataclass(frozen=True)
class Rate:
    """The rate of a stream, and its bottleneck: ``decode``, the network's name, or ``CPUs``."""

    clips_per_second: float
    bottleneck: str

    def hours(self, num_clips: int) -> float:
        return num_clips / self.clips_per_second / SECONDS_PER_HOUR

    def as_text(self, num_clips: int) -> str:
        bound = "all CPUs busy" if self.bottleneck == CPUS else f"{self.bottleneck}-bound"
        return f"{self.clips_per_second:,.1f} clips/s, {self.hours(num_clips):,.2f} h, {bound}"


@dataclass(frozen=True)
class RunForecast:
    """The predicted rates of a run, and what a cache is worth."""

    workload: Workload
    stage_one: Rate
    cached_training: Rate
    live_training: Rate  # of the same student with the teacher in its loop
    teacher_cores: float | None  # cores that decode for one GPU of stage one; none without GPUs
    student_cores: float | None  # the same for one GPU of cached training

    @property
    def stage_one_hours(self) -> float:
        return self.stage_one.hours(self.workload.num_cached_clips)

    @property
    def cached_hours(self) -> float:  # of one student
        return self.cached_training.hours(self.workload.num_trained_clips)

    @property
    def live_hours(self) -> float:  # of one student
        return self.live_training.hours(self.workload.num_trained_clips)

    @property
    def break_even_students(self) -> float:
        """Students after which the cache has paid off; infinity if it saves no time."""
        saved = self.live_hours - self.cached_hours
        return self.stage_one_hours / saved if saved > 0 else math.inf

    @property
    def break_even_epochs(self) -> float:
        """Epochs, of all students together, after which the cache has paid off."""
        return self.break_even_students * self.workload.num_epochs

    def as_text(self) -> str:
        """Return the forecast as one table."""
        cores = "there is no GPU"
        if self.teacher_cores is not None:
            cores = f"{self.teacher_cores:.1f} in stage one"
            cores += f", {self.student_cores:.1f} in cached training"
        paid = f"{self.break_even_epochs:.1f} epochs, {self.break_even_students:.2f} students"
        if math.isinf(self.break_even_students):
            paid = "never: training is no slower with a live teacher; speed up decoding"
        num_clips = self.workload.num_trained_clips
        rows = [
            ("store", f"{self.workload.num_bytes / 1e6:,.1f} MB before compression"),
            ("stage one", self.stage_one.as_text(self.workload.num_cached_clips)),
            ("student, cached", self.cached_training.as_text(num_clips)),
            ("student, live teacher", self.live_training.as_text(num_clips)),
            ("cores to feed a GPU", cores),
            ("cache is paid after", paid),
        ]
        return text_table(rows, align="<")


def forecast(costs: UnitCosts, shape: ClusterShape, workload: Workload) -> RunForecast:
    """Predict a run.

    ValueError if a cost is not positive, or the cluster has no CPU.
    """
    for name, seconds in vars(costs).items():
        if not seconds > 0:
            raise ValueError(f"{name} must be positive, got {seconds}")
    if not shape.num_cpus > 0:
        raise ValueError("a cluster needs CPUs: videos are decoded there")
    step, teacher = costs.student_step_seconds, costs.teacher_seconds
    on_gpu = shape.num_gpus > 0
    return RunForecast(
        workload=workload,
        stage_one=stage_one_rate(costs, shape),
        cached_training=_stream(shape, "student", costs.student_decode_seconds, step),
        live_training=_stream(shape, "teacher", costs.student_decode_seconds, step + teacher),
        teacher_cores=(costs.decode_seconds + costs.journal_seconds) / teacher if on_gpu else None,
        student_cores=costs.student_decode_seconds / step if on_gpu else None,
    )


def stage_one_rate(costs: UnitCosts, shape: ClusterShape) -> Rate:
    """Return the rate of stage one once its actors have started."""
    return _stream(
        shape, "teacher", costs.decode_seconds, costs.teacher_seconds, costs.journal_seconds
    )


def _stream(
    shape: ClusterShape,
    network: str,
    decode_seconds: float,
    network_seconds: float,
    other_seconds: float = 0.0,
) -> Rate:
    """Return the rate of decoders that feed devices; ``other_seconds`` are a core's."""
    decoders, devices = shape.num_cpus, float(shape.num_gpus or shape.num_cpus)
    if shape.max_decoders is not None:
        decoders = min(decoders, shape.max_decoders)
    if shape.max_devices is not None:
        devices = min(devices, shape.max_devices)
    core_seconds = decode_seconds + other_seconds
    if not shape.num_gpus:
        core_seconds += network_seconds
    rates = [
        Rate(devices / network_seconds, network),
        Rate(decoders / decode_seconds, "decode"),
        # With GPUs, the CPUs mostly decode.
        Rate(shape.num_cpus / core_seconds, "decode" if shape.num_gpus else CPUS),
    ]
    return min(rates, key=lambda rate: rate.clips_per_second)
