"""The doctor of a sealed logit store: what it found, as a table and as JSON.

With ``--verify n`` it also asks the teacher of this machine again about n cells, the only check
that needs weights and videos. Logits may differ in their last bits by machine and by the batch they
were computed in; a wrong view or another teacher differs far more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import Status, StoreUnsound
from pipeline.frames.source import read_source
from pipeline.logits.cells import centre
from pipeline.logits.examine import Diagnosis, StoreFinding, examine
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.store import LogitStore
from pipeline.networks.teacher import TeacherPredictor, check_teacher
from pipeline.storage.files import write_json
from pipeline.text_table import text_table
from pipeline.views.decoder import DecodeProcess
from pipeline.views.loader import jitter_rows
from pipeline.views.view import build_view, keyed_hash

MAX_CLASSES_SHOWN = 5
MAX_KL = 0.01  # nats, of one cell; rounding to float16 gives under 1e-5


def run_doctor(config: ExperimentConfig, *, num_verified: int, json_uri: str | None) -> None:
    """Examine the store; print a report, and write it as JSON to ``json_uri`` if that is given.

    The live teacher is asked about ``num_verified`` cells; 0 needs neither teacher nor videos.

    Raises:
        StoreIncomplete: if there is no sealed store, or no manifest.
        FingerprintMismatch: if the store is not of this config and manifest.
        StoreCorrupt: if seal or identity are damaged, so that nothing else can be examined.
        StoreUnsound: if anything was found.
    """
    manifest = read_source(config)
    store = open_experiment_store(config, manifest)
    if num_verified:
        check_teacher(config, manifest.class_names)  # before the examination, which takes longer
    diagnosis = examine(store, manifest.records, config.views)
    damaged = any(found.kind == "damaged file" for found in diagnosis.findings)
    live = None
    if num_verified and not damaged:  # a damaged store cannot be read as a whole
        live = check_against_teacher(config, store, manifest, num_verified)
    findings = [*diagnosis.findings, *(live.findings if live else [])]
    print(report_text(store, diagnosis, live, findings, manifest.class_names))
    if json_uri is not None:
        write_json(json_uri, report_values(store, diagnosis, live, findings))
    if findings:
        kinds = ", ".join(sorted({found.kind for found in findings}))
        raise StoreUnsound(f"{len(findings)} findings in {store.root}: {kinds}")


def report_text(
    store: LogitStore,
    diagnosis: Diagnosis,
    live: LiveCheck | None,
    findings: Sequence[StoreFinding],
    class_names: Sequence[str],
) -> str:
    """Return the report as text: every shard's figures, the worst classes, the findings."""
    num_bytes = sum(entry.num_bytes for entry in store.seal.files)
    header = ("shard", "good cells", "top-1", "entropy (nats)")
    shards = [
        (str(shard.number), str(shard.num_good), f"{shard.top1:.3f}", f"{shard.entropy:.3f}")
        for shard in diagnosis.shards
    ]
    lines = [
        f"store        {store.root} ({store.spec.format})",
        f"root digest  {store.root_digest}",
        f"files        {len(store.seal.files)}, {num_bytes:,} bytes",
        "",
        text_table([header, *shards], align=">"),
        "",
        f"classes the teacher knows least: {_worst(diagnosis, class_names)}",
    ]
    if live is not None:
        lines.append(
            f"live teacher on {len(live.kl)} cells: KL at most {live.kl.max():.2g} nats, logits at "
            f"most {live.difference.max():.2g} apart"
        )
    lines += ["", *(f"{found.kind}: {found.where}: {found.message}" for found in findings)]
    lines.append(f"{len(findings)} findings" if findings else "nothing found: the store is sound")
    return "\n".join(lines)


def report_values(
    store: LogitStore,
    diagnosis: Diagnosis,
    live: LiveCheck | None,
    findings: Sequence[StoreFinding],
) -> dict[str, Any]:
    """Return the report as JSON values."""
    return {
        "store": store.root,
        "root_digest": store.root_digest,
        "fingerprint": store.spec.fingerprint,
        "healthy": not findings,
        "findings": [asdict(finding) for finding in findings],
        "shards": [asdict(shard) | {"top1": shard.top1} for shard in diagnosis.shards],
        "class_top1": [None if math.isnan(top1) else top1 for top1 in diagnosis.class_top1],
        "live": live
        and {
            "cells": len(live.kl),
            "max_kl": float(live.kl.max()),
            "mean_kl": float(live.kl.mean()),
            "max_difference": float(live.difference.max()),
        },
    }


def _worst(diagnosis: Diagnosis, class_names: Sequence[str]) -> str:
    known = [
        (top1, name)
        for top1, name in zip(diagnosis.class_top1, class_names, strict=True)
        if not math.isnan(top1)
    ]
    return ", ".join(f"{name} {top1:.2f}" for top1, name in sorted(known)[:MAX_CLASSES_SHOWN])


@dataclass(frozen=True)
class LiveCheck:
    """n cells that the teacher was asked about again, and how far its answer is from the store."""

    coordinates: tuple[tuple[int, int], ...]  # (row, view_index)
    kl: NDArray[np.float64]  # (n,) KL(store || live) in nats
    difference: NDArray[np.float64]  # (n,) the largest difference of a centred logit

    @property
    def findings(self) -> list[StoreFinding]:
        """The cells that are further apart than rounding explains."""
        return [
            StoreFinding(
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
    """Decode the clips of ``num_cells`` good cells again and run the teacher over them.

    The choice of cells is a hash, so it is the same each time.

    Raises:
        VideoDecodeError: if a video cannot be decoded any more.
        WeightsMismatch: if the teacher's weights are not here or do not fit.
    """
    grid = store.read_all()
    chosen = _choose(grid.status, num_cells)
    frames, jitter = _clips(config, store, manifest, chosen)
    live, _ = centre(TeacherPredictor(config, manifest.class_names).logits(frames, jitter))
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
    config: ExperimentConfig, store: LogitStore, manifest: Manifest, chosen: list[tuple[int, int]]
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Return frames ``(n, T, side, side, 3)`` and jitter ``(n, T or 1, 5)`` of the cells."""
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
