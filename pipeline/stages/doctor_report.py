"""What the doctor says: a table for people, JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.logits.examine import Diagnosis, Finding
from pipeline.logits.store import LogitStore
from pipeline.stages.live_check import LiveCheck

MAX_CLASSES_SHOWN = 5


def report_text(
    store: LogitStore,
    diagnosis: Diagnosis,
    live: LiveCheck | None,
    findings: Sequence[Finding],
    class_names: Sequence[str],
) -> str:
    """Lay the figures of every shard out, then the worst classes, then what was found."""
    num_bytes = sum(entry.num_bytes for entry in store.seal.files)
    lines = [
        f"store        {store.root} ({store.spec.format})",
        f"root digest  {store.root_digest}",
        f"files        {len(store.seal.files)}, {num_bytes:,} bytes",
        "",
        "shard  good cells  top-1  entropy (nats)",
        *(
            f"{shard.number:5}  {shard.num_good:10}  {shard.top1:5.3f}  {shard.entropy:14.3f}"
            for shard in diagnosis.shards
        ),
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
    store: LogitStore, diagnosis: Diagnosis, live: LiveCheck | None, findings: Sequence[Finding]
) -> dict[str, Any]:
    """Return the same as plain JSON values."""
    return {
        "store": store.root,
        "root_digest": store.root_digest,
        "fingerprint": store.spec.fingerprint,
        "healthy": not findings,
        "findings": [asdict(finding) for finding in findings],
        "shards": [asdict(shard) | {"top1": shard.top1} for shard in diagnosis.shards],
        "class_top1": [None if math.isnan(top1) else top1 for top1 in diagnosis.class_top1],
        "live": None
        if live is None
        else {
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
