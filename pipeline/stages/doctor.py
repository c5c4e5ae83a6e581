"""The doctor of a sealed logit store: what it found, as a table and as JSON.

With ``--verify n`` it also asks the teacher again about n cells, on this machine, the only check
that needs weights and videos. Logits may differ in their last bits by machine and by the batch they
were computed in; a wrong view or another teacher differs far more.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import Manifest
from pipeline.errors import ConfigError, Status, StoreUnsound
from pipeline.frames.source import read_source
from pipeline.frames.store import open_frame_store
from pipeline.logits.cells import centre
from pipeline.logits.examine import Diagnosis, StoreFinding, damaged_files, examine
from pipeline.logits.generations import open_experiment_store
from pipeline.logits.spec import Unit
from pipeline.logits.store import LogitStore
from pipeline.networks.teacher import TeacherPredictor, check_teacher
from pipeline.stages.cache_steps import UnitDecoder, stack_clips, stack_mixing, unit_block
from pipeline.stages.cluster import for_this_machine
from pipeline.storage.files import write_json
from pipeline.text_table import text_table
from pipeline.views.mix import MixGroups, group_size, store_groups
from pipeline.views.view import keyed_hash

MAX_CLASSES_SHOWN = 5
MAX_KL = 0.01  # nats, of one cell; rounding to float16 gives under 1e-5


def run_doctor(config: ExperimentConfig, *, num_verified: int, json_uri: str | None) -> None:
    """Examine the store; print a report, and write it as JSON to ``json_uri`` if that is given.

    The live teacher is asked about ``num_verified`` cells; 0 needs neither teacher nor videos.

    StoreUnsound if anything was found; StoreCorrupt if seal or identity are damaged, and nothing
    else can be examined; FingerprintMismatch if the store is not of this config and manifest.
    """
    manifest = read_source(config)
    store = open_experiment_store(config, manifest)
    if num_verified and store.spec.blended:
        raise ConfigError(f"{store.root} is a blend of several teachers; --verify them in theirs")
    if num_verified:
        check_teacher(config, manifest.class_names)  # before the examination, which takes longer
    diagnosis = examine(store, manifest.records, config.views)
    findings, live = list(diagnosis.findings), None
    damaged = any(found.kind == "damaged file" for found in findings)
    if num_verified and not damaged:  # a damaged store cannot be read as a whole
        wrong, live = _ask_teacher(config, store, manifest, num_verified)
        findings += wrong
    if config.frames.source == "prepared":
        frames = open_frame_store(config.frames_uri)
        findings += damaged_files(frames, frames.seal.entries)
    report = {
        "store": store.root,
        "root_digest": store.root_digest,
        "fingerprint": store.spec.fingerprint,
        "numerics": store.seal.provenance.get("numerics"),
        "healthy": not findings,
        "findings": [asdict(finding) for finding in findings],
        "shards": [asdict(shard) | {"top1": shard.top1} for shard in diagnosis.shards],
        "class_top1": [None if math.isnan(top1) else top1 for top1 in diagnosis.class_top1],
        "live": live,
    }
    print(_report_text(store, diagnosis, findings, live))
    if json_uri is not None:
        write_json(json_uri, report)
    if findings:
        kinds = ", ".join(sorted({found.kind for found in findings}))
        raise StoreUnsound(f"{len(findings)} findings in {store.root}: {kinds}")


def _report_text(
    store: LogitStore,
    diagnosis: Diagnosis,
    findings: Sequence[StoreFinding],
    live: Mapping[str, Any] | None,
) -> str:
    """Return the report as text: every shard's figures, the worst classes, the findings."""
    num_bytes = sum(entry.num_bytes for entry in store.seal.files)
    num_unlabelled = sum(shard.num_good - shard.num_labelled for shard in diagnosis.shards)
    header = ("shard", "good cells", "top-1", "entropy (nats)")
    shards = [
        (str(shard.number), str(shard.num_good), f"{shard.top1:.3f}", f"{shard.entropy:.3f}")
        for shard in diagnosis.shards
    ]
    known = zip(diagnosis.class_top1, store.spec.class_names, strict=True)
    worst = sorted(pair for pair in known if not math.isnan(pair[0]))[:MAX_CLASSES_SHOWN]
    lines = [
        f"store        {store.root} ({store.spec.format})",
        f"root digest  {store.root_digest}",
        f"files        {len(store.seal.files)}, {num_bytes:,} bytes",
        f"numerics     {_numerics_text(store.seal.provenance)}",
        "",
        text_table([header, *shards], align=">"),
        "",
        f"classes the teacher knows least: {', '.join(f'{n} {top1:.2f}' for top1, n in worst)}",
    ]
    if num_unlabelled:
        lines.append(f"{num_unlabelled} good cells of videos without a label, in no top-1")
    if live is not None:
        lines.append(
            f"live teacher on {live['cells']} cells: KL at most {live['max_kl']:.2g} nats, logits "
            f"at most {live['max_difference']:.2g} apart"
        )
    lines += ["", *(f"{found.kind}: {found.where}: {found.message}" for found in findings)]
    lines.append(f"{len(findings)} findings" if findings else "nothing found: the store is sound")
    return "\n".join(lines)


def _numerics_text(provenance: Mapping[str, Any]) -> str:
    if (mode := provenance.get("numerics")) is None:
        return "not recorded"  # a blend, or sealed by a version that wrote none
    tf32, version = "TF32" if mode["tf32"] else "no TF32", provenance["versions"]["torch"]
    return f"{mode['device']}, {mode['precision']}, {tf32}, torch {version}"


def _ask_teacher(
    config: ExperimentConfig, store: LogitStore, manifest: Manifest, num_cells: int
) -> tuple[list[StoreFinding], dict[str, Any]]:
    """Decode ``num_cells`` good cells again and run the teacher; return findings and figures.

    The choice of cells is a hash, so it is the same each time.
    """
    config, grid = for_this_machine(config), store.read_all()
    good = [(int(row), int(slot)) for row, slot in np.argwhere(grid.status == Status.GOOD)]
    chosen = sorted(sorted(good, key=lambda cell: keyed_hash("live check", *cell))[:num_cells])
    cells = [(row, store.spec.view_indices[slot]) for row, slot in chosen]
    with closing(UnitDecoder(config)) as decoder:
        clips = decoder(_block_of(cells, config, manifest))
    teacher = TeacherPredictor(config, manifest.class_names)
    there = zip(*(clips.column(name).to_pylist() for name in ("row", "view_index")), strict=True)
    place = {cell: number for number, cell in enumerate(there)}
    places = [place[cell] for cell in cells]
    live, _ = centre(teacher.logits(*stack_clips(clips, config), stack_mixing(clips))[places])
    cached = np.stack([grid.logits[cell] for cell in chosen]).astype(np.float64)
    kl, difference = _kl(cached, live.astype(np.float64)), np.abs(cached - live).max(axis=1)
    # Of the videos that cannot be decoded any more.
    reasons = clips.column("reason").take(places).to_pylist()
    findings = [
        StoreFinding(
            "live teacher",
            f"row {row}, view {view_index}",
            reasons[number]
            or f"KL {kl[number]:.3g} nats between store and teacher, logits up to "
            f"{difference[number]:.3g} apart",
        )
        for number, (row, view_index) in enumerate(cells)
        if reasons[number] or not kl[number] <= MAX_KL
    ]
    figures = {
        "cells": len(cells),
        "max_kl": float(kl.max()),
        "mean_kl": float(kl.mean()),
        "max_difference": float(difference.max()),
    }
    return findings, figures


def _block_of(
    cells: Sequence[tuple[int, int]], config: ExperimentConfig, manifest: Manifest
) -> pa.Table:
    """Return the block of cells and of those that they are mixed with, in whole mix groups."""
    records = dict(enumerate(manifest.records))
    groups = MixGroups(config.views, records, store_groups(config.views, records))
    size = group_size(config.views)
    wanted = defaultdict[int, set[int]](set)
    for row, view_index in cells:
        for member in (row, groups.partner(row, view_index)):
            if member is not None:
                wanted[member].add(view_index)
    blocks = []
    for group in sorted({row // size for row in wanted}):
        rows = range(group * size, min((group + 1) * size, len(records)))
        views = tuple(tuple(sorted(wanted[row])) for row in rows)
        blocks.append(unit_block(Unit(0, rows[0], views), [records[row] for row in rows]))
    return pa.concat_tables(blocks)


def _kl(cached: NDArray[np.float64], live: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return KL(softmax(cached) || softmax(live)) in nats, ``(n,)``, of ``(n, K)``."""
    cached, live = (
        logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) for logits in (cached, live)
    )
    kl: NDArray[np.float64] = (np.exp(cached) * (cached - live)).sum(axis=1)
    return kl
