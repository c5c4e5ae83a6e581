"""The examination of a sealed store by ``jobs/doctor.py``, without teacher and without GPU.

A damaged file is found by its sha256. All other checks are for stores that are sealed correctly and
wrong all the same, because the program that wrote them was wrong: rows out of place, a view under
another index, a shard of another teacher. They compare the store with the manifest and the view
policy, from which every view's digest can be computed again; with the journal, whose fragments name
their fingerprint; and with the labels, which a sane teacher knows better than chance.

A finding names its kind, the file or cells it is about, and what was expected and found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, StoreCorrupt
from pipeline.logits.cells import Cells, Grid, bad_logits, cell_shapes, pick
from pipeline.logits.confusion import Called, displaced, num_cells
from pipeline.logits.generations import GENERATIONS, find_videos, own_names
from pipeline.logits.journal import read_fragment
from pipeline.logits.spec import Shard, StoreSpec, plan_shards, plan_units
from pipeline.logits.store import LogitStore, backend_of
from pipeline.storage.files import is_temporary, list_tree
from pipeline.storage.sealed.seal import read_verified
from pipeline.storage.sealed.store import finished_units, fragment_name
from pipeline.tracking.progress import Progress
from pipeline.views.view import build_view

Kind = Literal[
    "damaged file",
    "coverage",
    "manifest",
    "view",
    "bad logits",
    "duplicate",
    "journal",
    "labels",
    "class order",
    "live teacher",
    "orphan",
]
MAX_NAMED = 5  # cells or files that a finding names; the count is always whole
CHANCE_DEVIATIONS = 3.0  # a shard whose top-1 is this near to chance knows nothing of its labels,
SANE_DEVIATIONS = 4.0  # which is a finding only if the rest of the store is this far above chance


@dataclass(frozen=True)
class StoreFinding:
    """One thing that is wrong with a store."""

    kind: Kind
    where: str
    message: str


@dataclass(frozen=True)
class ShardFigures:
    """Figures of a shard: good cells, the teacher's hits and its mean entropy."""

    number: int
    num_good: int
    num_classes: int  # among their labels
    num_hits: int
    entropy: float  # nats, mean over the good cells

    @property
    def top1(self) -> float:
        """Share of the good cells whose label the teacher puts first."""
        return self.num_hits / max(self.num_good, 1)


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the figures of every shard that could be read."""

    findings: tuple[StoreFinding, ...]
    shards: tuple[ShardFigures, ...]
    class_top1: tuple[float, ...]  # by label; NaN for a class without a good cell

    @property
    def healthy(self) -> bool:
        """True if nothing was found."""
        return not self.findings


def examine(store: LogitStore, records: Sequence[VideoRecord], policy: ViewsConfig) -> Diagnosis:
    """Examine a sealed store, beside the manifest and the views that it was made from."""
    spec = store.spec
    findings, figures, called = [], [], Called()
    seen: dict[bytes, tuple[str, bytes]] = {}
    journalled = finished_units(store.root)
    shards = plan_shards(spec, plan_units(spec, records))
    with Progress("examine", len(shards), "shards") as progress:
        for shard in progress.over(shards):
            try:
                grid = store.read_shard(shard.number)
            except StoreCorrupt as error:
                findings.append(_damage(error))
                continue
            here = [records[row] for row in shard.rows]
            cells = pick(grid, shard.rows, spec)
            findings += _check_coverage(shard, cells)
            findings += _check_manifest(shard, grid, here)
            findings += _check_logits(shard, cells)
            findings += _check_views(shard, cells, here, policy, spec)
            findings += _check_duplicates(shard, cells, seen)
            findings += _check_journal(store, shard, cells, journalled)
            figures.append(_figures(shard, cells, here, called))
    findings += _check_labels(figures, spec.num_classes)
    findings += [
        StoreFinding("class order", *found) for found in displaced(called, spec.class_names)
    ]
    findings += _check_other_files(store)
    totals = num_cells(called)
    class_top1 = tuple(
        called[label, label] / totals[label] if totals[label] else math.nan
        for label in range(spec.num_classes)
    )
    return Diagnosis(tuple(findings), tuple(figures), class_top1)


def _check_coverage(shard: Shard, cells: Cells) -> Iterator[StoreFinding]:
    wanted = {place for unit in shard.units for place in unit.coordinates}
    found = set(cells.coordinates)
    if missing := sorted(wanted - found):
        yield _cells_finding("coverage", shard, missing, "wanted and not there")
    if extra := sorted(found - wanted):
        yield _cells_finding("coverage", shard, extra, "there and not wanted")


def _check_manifest(
    shard: Shard, grid: Grid, records: Sequence[VideoRecord]
) -> Iterator[StoreFinding]:
    rows = [
        row
        for row, record, label, sample_id in zip(
            shard.rows, records, grid.label.tolist(), grid.sample_id, strict=True
        )
        if (label, sample_id) != (record.label, record.sample_id)
    ]
    if rows:
        first = rows[0] - shard.rows.start
        yield StoreFinding(
            "manifest",
            _name(shard),
            f"rows {_some(rows)} have another label or sample_id than in the manifest: "
            f"{grid.sample_id[first]!r}, label {grid.label[first]}, where the manifest has "
            f"{records[first].sample_id!r}, label {records[first].label}",
        )


def _check_logits(shard: Shard, cells: Cells) -> Iterator[StoreFinding]:
    good = cells.status == Status.GOOD
    logits = cells.logits[good]
    bad = bad_logits(logits)
    if bad.any():
        places = _places(cells, good, bad)
        yield _cells_finding("bad logits", shard, places, "NaN, infinite or constant")
    off_centre = ~bad & (logits.max(axis=1, initial=-np.inf) != 0)
    if off_centre.any():
        places = _places(cells, good, off_centre)
        yield _cells_finding("bad logits", shard, places, "not centred: their maximum is not 0")


def _check_views(
    shard: Shard, cells: Cells, records: Sequence[VideoRecord], policy: ViewsConfig, spec: StoreSpec
) -> Iterator[StoreFinding]:
    """Compute the digest of every view again, from the manifest and the policy."""
    wrong = []
    for place, (row, view_index) in enumerate(cells.coordinates):
        if cells.status[place] != Status.GOOD:
            continue
        record = records[row - shard.rows.start]
        view = build_view(policy, record, view_index, num_frames=spec.num_frames)
        if view.digest != cells.view_digest[place]:
            wrong.append((row, view_index))
    if wrong:
        message = "under the digest of another view, so rows or views are out of place"
        yield _cells_finding("view", shard, wrong, message)


def _check_duplicates(
    shard: Shard, cells: Cells, seen: dict[bytes, tuple[str, bytes]]
) -> Iterator[StoreFinding]:
    """Find equal logits of different pixels; equal pixels may well have equal logits."""
    twins = []
    for place in np.flatnonzero(cells.status == Status.GOOD):
        key = cells.logits[place].tobytes() + cells.logit_offset[place].tobytes()
        pixels = cells.frame_crc[place].tobytes()
        row, view_index = cells.row[place], cells.view_index[place]
        other, other_pixels = seen.setdefault(key, (f"row {row}, view {view_index}", pixels))
        if pixels != other_pixels:
            twins.append(f"row {row}, view {view_index} = {other}")
    if twins:
        message = f"{len(twins)} cells have the very logits of other pixels: {_some(twins)}"
        yield StoreFinding("duplicate", _name(shard), message)


def _check_journal(
    store: LogitStore, shard: Shard, cells: Cells, journalled: set[int]
) -> Iterator[StoreFinding]:
    """Compare a shard with those fragments it was gathered from that still exist."""
    for unit in shard.units:
        if unit.number not in journalled:
            continue
        try:
            fragment = read_fragment(store.root, store.spec, unit)
        except StoreCorrupt as error:
            yield _damage(error)
            continue
        mine = (cells.row >= unit.rows.start) & (cells.row < unit.rows.stop)
        differing = [
            name
            for name in ("row", "view_index", *cell_shapes(store.spec))
            if not _equal(getattr(cells, name)[mine], getattr(fragment, name))
        ]
        if differing:
            yield StoreFinding(
                "journal",
                _name(shard),
                f"unit {unit.number} differs from {fragment_name(unit.number)} in "
                f"{', '.join(differing)}: the shard was not made from this journal",
            )


def _check_labels(figures: Sequence[ShardFigures], num_classes: int) -> Iterator[StoreFinding]:
    """Find shards in which the teacher knows no labels, in a store in which it does."""
    for shard in figures:
        others = [other for other in figures if other is not shard and other.num_good]
        if not others or shard.num_classes < 2:  # a single class may be one it never learnt
            continue
        rest = sum(other.num_hits for other in others) / sum(other.num_good for other in others)
        chance = 1 / num_classes
        deviation = float(np.sqrt(chance * (1 - chance) / shard.num_good))
        ignorant = shard.top1 < chance + CHANCE_DEVIATIONS * deviation
        if ignorant and rest > chance + SANE_DEVIATIONS * deviation:
            yield StoreFinding(
                "labels",
                f"shard {shard.number}",
                f"top-1 {shard.top1:.3f} of {shard.num_good} cells, {rest:.3f} in the rest of the "
                "store: logits of another teacher, or in another order",
            )


def _check_other_files(store: LogitStore) -> Iterator[StoreFinding]:
    """Verify the files that belong to no shard, and name those that belong to nothing.

    Temporary files are no finding: either a job is at work, or ``jobs/gc.py`` will delete them.
    """
    sealed = {entry.name: entry for entry in store.seal.files}
    shards = range(store.spec.num_shards)
    of_shards = {name for number in shards for name in backend_of(store.spec).shard_names(number)}
    for name in sorted(sealed.keys() - of_shards):
        try:
            read_verified(store.root, sealed[name])
        except StoreCorrupt as error:
            yield _damage(error)
    try:
        find_videos(store.root, store.spec)
    except StoreCorrupt as error:
        yield _damage(error)
    orphans = [
        name
        for name in sorted(set(list_tree(store.root)) - own_names(store.spec))
        if not name.startswith(f"{GENERATIONS}/") and not is_temporary(name)
    ]
    if orphans:
        message = f"{len(orphans)} files belong neither to seal nor journal: {_some(orphans)}"
        yield StoreFinding("orphan", store.root, message)


def _figures(
    shard: Shard, cells: Cells, records: Sequence[VideoRecord], called: Called
) -> ShardFigures:
    """Sum up a shard, and count its good cells in ``called``."""
    good = (cells.status == Status.GOOD) & ~bad_logits(cells.logits)
    logits = cells.logits[good].astype(np.float64)
    labels = np.array([records[row - shard.rows.start].label for row in cells.row[good]], int)
    first = logits.argmax(axis=1)
    hits = first == labels
    called.update(zip(labels.tolist(), first.tolist(), strict=True))
    exponentials = np.exp(logits)
    total = exponentials.sum(axis=1)
    entropy = np.log(total) - (exponentials * logits).sum(axis=1) / total
    mean = float(entropy.mean()) if len(entropy) else 0.0
    return ShardFigures(shard.number, len(labels), len(set(labels.tolist())), int(hits.sum()), mean)


def _damage(error: StoreCorrupt) -> StoreFinding:
    return StoreFinding("damaged file", error.uri, f"{error.expected}; {error.found}")


def _places(
    cells: Cells, good: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Return the coordinates of those good cells that are ``wrong``."""
    return [cells.coordinates[place] for place in np.flatnonzero(good)[wrong]]


def _equal(left: NDArray[np.generic], right: NDArray[np.generic]) -> bool:
    return left.shape == right.shape and left.tobytes() == right.tobytes()


def _cells_finding(
    kind: Kind, shard: Shard, places: Sequence[tuple[int, int]], message: str
) -> StoreFinding:
    named = _some([f"row {row}, view {view_index}" for row, view_index in places])
    return StoreFinding(kind, _name(shard), f"{len(places)} cells are {message}: {named}")


def _name(shard: Shard) -> str:
    return f"shard {shard.number}"


def _some(things: Sequence[object]) -> str:
    more = f" and {len(things) - MAX_NAMED} more" if len(things) > MAX_NAMED else ""
    return "; ".join(map(str, things[:MAX_NAMED])) + more
