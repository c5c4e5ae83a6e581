"""Is the teacher that is here the one that filled the store? Ask it again about a few cells.

The doctor's only check that needs the teacher and the videos. Logits may differ in their last bits
by machine and by the batch they were computed in; a wrong view or another teacher differs far more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.load import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import Status
from pipeline.logits.encoding import centre
from pipeline.logits.examine import Finding
from pipeline.logits.store import LogitStore
from pipeline.networks.teacher import TeacherPredictor
from pipeline.views.decoder import DecodeProcess
from pipeline.views.loader import jitter_rows
from pipeline.views.view import build_view, keyed_hash

MAX_KL = 0.01  # nats, of one cell; rounding to float16 gives under 1e-5


@dataclass(frozen=True)
class LiveCheck:
    """The cells that were asked again, and how far store and live teacher are apart.

    ``kl`` is KL(store || live) in nats and ``difference`` the largest one of a centred logit, both
    ``(n,)``.
    """

    coordinates: tuple[tuple[int, int], ...]
    kl: NDArray[np.float64]
    difference: NDArray[np.float64]

    @property
    def findings(self) -> list[Finding]:
        """What is further apart than rounding explains."""
        return [
            Finding(
                "live teacher",
                f"row {row}, view {view_index}",
                f"KL {kl:.3g} nats between store and teacher, logits up to {difference:.3g} apart",
            )
            for (row, view_index), kl, difference in zip(
                self.coordinates, self.kl, self.difference, strict=True
            )
            if not kl <= MAX_KL
        ]


def check_against_teacher(
    config: ExperimentConfig, store: LogitStore, manifest: Manifest, num_cells: int
) -> LiveCheck:
    """Decode some good cells' clips again and run the teacher over them.

    Args:
        config: of the experiment; says where the teacher's weights are.
        store: sealed.
        manifest: that the store was made from.
        num_cells: how many cells to ask about; the same ones each time.

    Raises:
        VideoDecodeError: if a video cannot be decoded any more.
        WeightsMismatch: if the teacher's weights are not here or do not fit.

    """
    grid = store.read_all()
    chosen = _choose(grid.status, num_cells)
    frames, jitter = _clips(config, store, manifest, chosen)
    live, _ = centre(TeacherPredictor(config).logits(frames, jitter))
    rows, slots = np.array(chosen).reshape(-1, 2).T
    cached = grid.logits[rows, slots]
    views = store.spec.view_indices
    return LiveCheck(
        coordinates=tuple((row, views[slot]) for row, slot in chosen),
        kl=_kl(cached.astype(np.float64), live.astype(np.float64)),
        difference=np.abs(cached.astype(np.float64) - live.astype(np.float64)).max(axis=1),
    )


def _choose(status: NDArray[np.uint8], num_cells: int) -> list[tuple[int, int]]:
    """Return (row, slot) of good cells, spread over the store by a hash."""
    good = [(int(row), int(slot)) for row, slot in np.argwhere(status == Status.GOOD)]
    return sorted(sorted(good, key=lambda cell: keyed_hash("live check", *cell))[:num_cells])


def _clips(
    config: ExperimentConfig,
    store: LogitStore,
    manifest: Manifest,
    chosen: list[tuple[int, int]],
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    decoder, limits, clip = DecodeProcess(), config.dataset.limits, config.clip
    frames, jitter = [], []
    try:
        for row, slot in chosen:
            record, index = manifest.records[row], store.spec.view_indices[slot]
            view = build_view(config.views, record, index, num_frames=clip.num_frames)
            frames.append(decoder.clips(record, [view], limits, side=clip.side)[0].frames)
            rows = jitter_rows([view])[0]
            per_clip = clip.num_frames if config.views.jitter_per_frame else 1
            jitter.append(np.broadcast_to(rows, (per_clip, rows.shape[1])))
    finally:
        decoder.close()
    return np.stack(frames), np.stack(jitter)


def _kl(cached: NDArray[np.float64], live: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(softmax(cached) || softmax(live)) in nats, ``(n,)``, of ``(n, K)``."""
    cached, live = (
        logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) for logits in (cached, live)
    )
    kl: NDArray[np.float64] = (np.exp(cached) * (cached - live)).sum(axis=1)
    return kl
