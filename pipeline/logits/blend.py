"""A blend: a sealed store of the averaged probabilities of several teachers.

Its logits are the logarithm of the mean, centred like all others, so that students and the doctor
take it as any other store. At temperature 1 a student of the mean has the gradients of one that
learns from all teachers at once.

Its identity is that of the stores, which differ in the teacher alone; in the teacher's place stand
their weights, teachers and root digests. A blend has no journal: the same command writes the shards
that are missing, which costs no forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, Status, StoreCorrupt
from pipeline.logits.cells import Grid, bad_logits, centre
from pipeline.logits.generations import find_videos, record_videos
from pipeline.logits.shards import encode_shard
from pipeline.logits.spec import StoreSpec
from pipeline.logits.store import LogitStore, open_store, seal_logits
from pipeline.storage.files import sha256_of
from pipeline.storage.sealed.identity import canonical_json, differences
from pipeline.storage.sealed.store import open_for_writing, publish
from pipeline.tracking.progress import Progress


def run_blend(roots: Sequence[str], weights: Sequence[float], out: str) -> LogitStore:
    """Make the blend of the stores at ``roots`` at ``out``, and return it.

    Raises:
        ConfigError: if the weights are not as many as the stores, negative, or all 0; or if the
            stores differ in more than the teacher.
        StoreIncomplete, StoreCorrupt: if a store is not sealed, or damaged, or of other pixels.
        FingerprintMismatch: if there is another store at ``out``.
    """
    stores = [open_store(root) for root in roots]
    spec = plan_blend(stores, weights)
    if open_for_writing(out, spec) is not None:
        return open_store(out)
    if videos := find_videos(stores[0].root, stores[0].spec):
        record_videos(out, videos)
    shares = [part["weight"] for part in spec.identity["teacher"]["blend"]]
    entries = []
    with Progress("blend", spec.num_shards, "shards") as progress:
        for number in progress.over(range(spec.num_shards)):
            grids = [store.read_rows(spec.shard_rows(number)) for store in stores]
            files = encode_shard(spec, number, blend_grids(grids, shares))
            entries += [publish(out, name, content) for name, content in files.items()]
    seal_logits(out, spec, entries, provenance={"stores": list(roots)})
    return open_store(out)


def plan_blend(stores: Sequence[LogitStore], weights: Sequence[float]) -> StoreSpec:
    """Return the spec of the blend; it is cut into files as the first store is."""
    right = all(math.isfinite(weight) and weight >= 0 for weight in weights) and sum(weights) > 0
    if len(stores) < 2 or len(weights) != len(stores) or not right:
        raise ConfigError(
            f"--weights {' '.join(map(str, weights))}: {len(stores)} stores need as many weights "
            "(and a blend two stores or more), none negative and not all 0"
        )
    first, parts = stores[0].spec, []
    for store, weight in zip(stores, weights, strict=True):
        ours, theirs = ({**spec.identity, "teacher": None} for spec in (first, store.spec))
        if differing := differences(ours, theirs):
            named = "\n".join(f"  {key}: {a} and {b}" for key, (a, b) in differing.items())
            raise ConfigError(
                f"{stores[0].root} and {store.root} differ in more than the teacher:\n{named}"
            )
        teacher, share = store.spec.identity["teacher"], weight / sum(weights)
        parts.append({"weight": share, "teacher": teacher, "root_digest": store.root_digest})
    teacher = {"weights_sha256": sha256_of(canonical_json(parts)), "blend": parts}
    return replace(first, identity={**first.identity, "teacher": teacher})


def blend_grids(grids: Sequence[Grid], shares: Sequence[float]) -> Grid:
    """Average the same rows of several stores; a cell is good only where all are.

    StoreCorrupt if a good cell is of another view, or of other pixels, in one store than in others.
    """
    first = grids[0]
    status, digest, crc = first.status.copy(), first.view_digest.copy(), first.frame_crc.copy()
    for grid in grids[1:]:
        here, there = status == Status.GOOD, grid.status == Status.GOOD  # (B, V)
        other = (digest != grid.view_digest) | (crc != grid.frame_crc).any(axis=2)
        if (differs := here & there & other).any():
            name = first.sample_id[np.argwhere(differs)[0][0]]
            raise StoreCorrupt(name, "the same views and pixels in all stores", "different ones")
        worse = here & ~there
        status[worse] = grid.status[worse]
        digest[worse], crc[worse] = grid.view_digest[worse], grid.frame_crc[worse]
    good = status == Status.GOOD
    with np.errstate(divide="ignore"):  # the logarithm of a weight of 0
        parts = np.log(shares)[:, None, None] + [_log_softmax(grid.logits[good]) for grid in grids]
    centred, offset = centre(np.logaddexp.reduce(parts).astype(np.float32))  # (n, K)
    constant = bad_logits(centred)  # as of two teachers that contradict each other
    status[good] = np.where(constant, Status.BAD_LOGITS, Status.GOOD)
    logits, offsets = np.zeros_like(first.logits), np.zeros_like(first.logit_offset)
    logits[good] = np.where(constant[:, None], 0, centred)
    offsets[good] = np.where(constant, 0, offset)
    return Grid(status, logits, offsets, digest, crc, first.label, first.sample_id)


def _log_softmax(logits: NDArray[np.float16]) -> NDArray[np.float64]:
    """Return the logarithms of the probabilities, (n, K), of centred logits."""
    exact = logits.astype(np.float64)
    return np.asarray(exact - np.log(np.exp(exact).sum(axis=1, keepdims=True)))
