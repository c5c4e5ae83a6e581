"""The sizes of a stage's pools: as configured, or with ``auto`` by what the cluster has.

The rule is arithmetic on measured costs and needs no measurement of its own (docs/decisions/0019).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from pipeline.config.experiment import ExperimentConfig

# CPU seconds of decoding H.264 of Kinetics' size: through 45 ms a clip at one view, 15 at four.
SECONDS_A_VIDEO, SECONDS_A_VIEW = 0.040, 0.005
SECONDS_A_PREPARED_CLIP = 0.0026
CLIPS_PER_SECOND_OF_A_GPU = 860  # the most that is expected of Base in bf16 (docs/clusters.md)
TEACHERS_OF_A_DECODER = 7  # on CPU: seven of Base do 7 clips/s at 8 x 112 x 112, a decoder 22
SECONDS_BETWEEN_LOOKS = 2.0


def pool_sizes(config: ExperimentConfig, resources: Mapping[str, float]) -> tuple[int, int]:
    """Return the numbers of decoders and teachers, given the cluster's ``CPU`` and ``GPU``."""
    cluster, cores = config.cluster, usable_cores(resources)
    if cluster.use_gpu:
        fitting = int(resources.get("GPU", 0))
    elif cluster.num_decoders == "auto":
        fitting = cores * TEACHERS_OF_A_DECODER // (TEACHERS_OF_A_DECODER + 1)
    else:
        fitting = cores - cluster.num_decoders
    teachers = max(1, fitting) if cluster.num_teachers == "auto" else cluster.num_teachers
    feeding = min(cores, math.ceil(teachers * _decoders_of_a_teacher(config)))
    decoders = max(1, feeding) if cluster.num_decoders == "auto" else cluster.num_decoders
    return decoders, teachers


def usable_cores(resources: Mapping[str, float]) -> int:
    """Return the cores for actors: one in sixteen is left to Ray, the journal and the driver."""
    cores = int(resources.get("CPU", 0))
    return max(1, cores - cores // 16)


def _decoders_of_a_teacher(config: ExperimentConfig) -> float:
    if not config.cluster.use_gpu:
        return 1 / TEACHERS_OF_A_DECODER
    seconds = SECONDS_A_PREPARED_CLIP
    if config.frames.source == "videos":  # one pass decodes all views of a video
        seconds = SECONDS_A_VIDEO / config.views.num_views + SECONDS_A_VIEW
    return CLIPS_PER_SECOND_OF_A_GPU * seconds


class ClusterPools:
    """The sizes of the pools on the connected cluster, which may grow and shrink."""

    def __init__(self, config: ExperimentConfig) -> None:
        cluster = config.cluster
        self._config = config
        self._auto = "auto" in (cluster.num_decoders, cluster.num_teachers)
        self._looked_at = -math.inf
        self._resources: dict[str, float] = {}

    @property
    def resources(self) -> dict[str, float]:
        """What the cluster has, free or not, as it was a moment ago; nothing without ``auto``."""
        import ray

        if self._auto and time.monotonic() - self._looked_at > SECONDS_BETWEEN_LOOKS:
            self._resources, self._looked_at = ray.cluster_resources(), time.monotonic()
        return self._resources

    def num_decoders(self) -> int:
        return pool_sizes(self._config, self.resources)[0]

    def num_teachers(self) -> int:
        return pool_sizes(self._config, self.resources)[1]

    def all_decoders(self) -> int:
        """Decoders of a stage without teachers."""
        wanted = self._config.cluster.num_decoders
        return usable_cores(self.resources) if wanted == "auto" else wanted

    def show(self) -> None:
        """Print what ``auto`` chose and why."""
        if not self._auto:
            return
        cores, gpus = (int(self.resources.get(name, 0)) for name in ("CPU", "GPU"))
        device = f"{gpus} GPUs" if self._config.cluster.use_gpu else "no GPU used"
        ratio = _decoders_of_a_teacher(self._config)
        print(
            f"pools        decoders {self.num_decoders()}, teachers {self.num_teachers()}: "
            f"the cluster has {cores} cores, {device}; a teacher needs {ratio:.2g} decoders",
            flush=True,
        )
