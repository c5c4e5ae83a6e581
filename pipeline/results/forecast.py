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
    """Seconds per clip: of one core, or for networks of one device, which is a GPU or a core."""

    decode_seconds: float
    """Decoding in stage one, where all views of a video come from one pass."""
    teacher_seconds: float
    """The teacher's forward pass."""
    journal_seconds: float
    """Writing the logits, and passing a unit on through Ray, on a core."""
    student_decode_seconds: float
    """Decoding in stage two: one view of a video a visit."""
    student_step_seconds: float
    """Forward, backward and optimiser of a step with cached targets."""


@dataclass(frozen=True)
class ClusterShape:
    """A cluster of equal nodes. Without GPUs the networks run on the CPUs, a thread each."""

    num_nodes: int
    cpus_per_node: float
    gpus_per_node: int
    max_decoders: int | None = None
    """Decoding actors of the whole cluster; none: as many as there are CPUs."""
    max_devices: int | None = None
    """Teacher actors, or training workers; none: one a GPU, or one a CPU."""

    @property
    def num_cpus(self) -> float:
        """Cores of the whole cluster."""
        return self.num_nodes * self.cpus_per_node

    @property
    def num_gpus(self) -> int:
        """GPUs of the whole cluster."""
        return self.num_nodes * self.gpus_per_node


@dataclass(frozen=True)
class Workload:
    """The number of clips, classes, frames and epochs of a run."""

    num_cached_clips: int
    num_classes: int
    num_frames: int
    num_train_clips: int
    """Clips of one epoch."""
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


@dataclass(frozen=True)
class RunForecast:
    """The predicted rates of a run, and what a cache is worth."""

    workload: Workload
    stage_one: Rate
    cached_training: Rate
    live_training: Rate
    """The same student with the teacher in its loop."""
    teacher_cores: float | None
    """Cores that decode for one GPU of stage one; none without GPUs."""
    student_cores: float | None
    """The same for one GPU of cached training."""

    @property
    def stage_one_hours(self) -> float:
        """Wall time of stage one."""
        return self.stage_one.hours(self.workload.num_cached_clips)

    @property
    def cached_hours(self) -> float:
        """Wall time of one student on the cache."""
        return self.cached_training.hours(self.workload.num_trained_clips)

    @property
    def live_hours(self) -> float:
        """Wall time of one student with a live teacher."""
        return self.live_training.hours(self.workload.num_trained_clips)

    @property
    def break_even_students(self) -> float:
        """Students after which the cache has paid off; infinity if it saves no time."""
        saved = self.live_hours - self.cached_hours
        return self.stage_one_hours / saved if saved > 0 else math.inf

    @property
    def break_even_epochs(self) -> float:
        """Epochs, of any students, after which it has."""
        return self.break_even_students * self.workload.num_epochs

    def as_text(self) -> str:
        """Return the forecast as one table."""
        rows = [
            ("store", f"{self.workload.num_bytes / 1e6:,.1f} MB before compression"),
            ("stage one", _describe(self.stage_one, self.stage_one_hours)),
            ("student, cached", _describe(self.cached_training, self.cached_hours)),
            ("student, live teacher", _describe(self.live_training, self.live_hours)),
            ("cores to feed a GPU", _describe_cores(self.teacher_cores, self.student_cores)),
            ("cache is paid after", self._describe_break_even()),
        ]
        return text_table(rows, align="<")

    def _describe_break_even(self) -> str:
        if math.isinf(self.break_even_students):
            return "never: training is no slower with a live teacher; decoding is what to speed up"
        return f"{self.break_even_epochs:.1f} epochs, {self.break_even_students:.2f} students"


def forecast(costs: UnitCosts, shape: ClusterShape, workload: Workload) -> RunForecast:
    """Predict a run.

    Raises:
        ValueError: if a cost is not positive, or the cluster has no CPU.
    """
    _check(costs, shape)
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
        Rate(shape.num_cpus / core_seconds, CPUS),
    ]
    slowest = min(rates, key=lambda rate: rate.clips_per_second)
    if slowest.bottleneck == CPUS and shape.num_gpus:
        return Rate(slowest.clips_per_second, "decode")  # With GPUs, CPUs mostly decode.
    return slowest


def _check(costs: UnitCosts, shape: ClusterShape) -> None:
    for name, seconds in vars(costs).items():
        if not seconds > 0:
            raise ValueError(f"{name} must be positive, got {seconds}")
    if not shape.num_cpus > 0:
        raise ValueError("a cluster needs CPUs: videos are decoded there")


def _describe(rate: Rate, hours: float) -> str:
    bound = "all CPUs busy" if rate.bottleneck == CPUS else f"{rate.bottleneck}-bound"
    return f"{rate.clips_per_second:,.1f} clips/s, {hours:,.2f} h, {bound}"


def _describe_cores(teacher: float | None, student: float | None) -> str:
    if teacher is None or student is None:
        return "there is no GPU"
    return f"{teacher:.1f} in stage one, {student:.1f} in cached training"
