"""The examination of a sealed store by ``jobs/doctor.py``, without teacher and without GPU.

A damaged file is found by its sha256. All other checks are for stores that are sealed correctly and
wrong all the same, because the program that wrote them was wrong: rows out of place, a view under
another index, a shard of another teacher. They compare the store with the manifest and the view
policy, from which every view's digest can be computed again; with the journal, whose fragments name
their fingerprint; and with the labels, which a sane teacher knows better than chance.

A finding names its kind, the file or cells it is about, and what was expected and found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import UNLABELLED, VideoRecord
from pipeline.errors import Status, StoreCorrupt
from pipeline.logits.cells import Cells, Grid, bad_logits, cell_shapes, pick
from pipeline.logits.generations import GENERATIONS, find_videos, own_names
from pipeline.logits.journal import read_fragment
from pipeline.logits.shards import shard_names
from pipeline.logits.spec import Shard, StoreSpec, plan_shards, plan_units
from pipeline.logits.store import LogitStore
from pipeline.storage.files import is_temporary, list_tree
from pipeline.storage.sealed.store import SealedStore, finished_units, fragment_name
from pipeline.tracking.progress import Progress
from pipeline.views.mix import MixGroups, store_groups

MAX_NAMED = 5  # cells or files that a finding names; the count is always whole
# In standard deviations of a shard's top-1: a shard is wrong if it is less than CHANCE_DEVIATIONS
# above chance while the rest of the store is more than SANE_DEVIATIONS above it.
CHANCE_DEVIATIONS, SANE_DEVIATIONS = 3.0, 4.0
# A class is displaced if it has so many cells, so low a top-1, and another one's name in more than
# this share of them.
DISPLACED_CELLS, DISPLACED_TOP1, DISPLACED_SHARE = 10, 0.05, 0.5


@dataclass(frozen=True)
class StoreFinding:
    """One thing that is wrong with a store; ``kind`` is a word or two, such as "bad logits"."""

    kind: str
    where: str
    message: str


@dataclass(frozen=True)
class ShardFigures:
    """Figures of a shard: good cells, the teacher's hits and its mean entropy."""

    number: int
    num_good: int
    num_labelled: int  # of the good cells
    num_classes: int  # among their labels
    num_hits: int
    entropy: float  # nats, mean over the good cells

    @property
    def top1(self) -> float:
        """Share of the good cells with a label that have it put first by the teacher."""
        return self.num_hits / max(self.num_labelled, 1)


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the figures of every shard that could be read."""

    findings: tuple[StoreFinding, ...]
    shards: tuple[ShardFigures, ...]
    class_top1: tuple[float, ...]  # by label; NaN for a class without a good cell


def examine(store: LogitStore, records: Sequence[VideoRecord], policy: ViewsConfig) -> Diagnosis:
    """Examine a sealed store, beside the manifest and the views that it was made from."""
    spec = store.spec
    findings, figures = [], []
    called = np.zeros((spec.num_classes, spec.num_classes), np.int64)
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
    with np.errstate(invalid="ignore"):
        class_top1 = called.diagonal() / called.sum(axis=1)  # NaN for a class without cells
    return Diagnosis(tuple(findings), tuple(figures), tuple(class_top1.tolist()))


def displaced(called: NDArray[np.int64], class_names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield classes that the teacher calls by another one's name, as a head in a wrong order does.

    Each comes with a message. ``called`` (K, K) counts good cells by label and by the class that
    the teacher puts first. An untrained teacher answers all cells with one class, or at random; it
    has no displaced classes.
    """
    totals = called.sum(axis=1)
    share = called.max(axis=1) / np.maximum(totals, 1)
    name_of = {int(k): int(called[k].argmax()) for k in np.flatnonzero(share > DISPLACED_SHARE)}
    if 2 * len(set(name_of.values())) <= np.count_nonzero(totals):
        return
    known = [label for label in name_of if totals[label] >= DISPLACED_CELLS]
    wrong = [label for label in known if called[label, label] <= DISPLACED_TOP1 * totals[label]]
    for label in wrong:
        other = name_of[label]
        swapped = other in wrong and name_of[other] == label
        if swapped and other < label:  # both are named already
            continue
        also = f", and the other way round in {share[other]:.0%}" if swapped else ""
        rivals = [class_names[k] for k in known if name_of[k] == other and k != label]
        advice = (
            f"So is {', '.join(rivals)}, and which of them the head's row {other} stands for is "
            "not clear: compare teacher.class_names, and the labels, with the teacher's own list"
            if rivals
            else f"The head's row {other} seems to stand for {class_names[label]}: correct "
            "teacher.class_names, or the labels"
        )
        yield (
            class_names[label],
            f"is called {class_names[other]} in {share[label]:.0%} of {totals[label]} cells{also}. "
            f"{advice}",
        )


def _check_coverage(shard: Shard, cells: Cells) -> Iterator[StoreFinding]:
    wanted = {place for unit in shard.units for place in unit.coordinates}
    found = set(cells.coordinates)
    yield from _of_cells("coverage", shard, sorted(wanted - found), "wanted and not there")
    yield from _of_cells("coverage", shard, sorted(found - wanted), "there and not wanted")


def _check_manifest(
    shard: Shard, grid: Grid, records: Sequence[VideoRecord]
) -> Iterator[StoreFinding]:
    stored = list(zip(grid.sample_id, grid.label.tolist(), strict=True))
    listed = [(record.sample_id, record.label_number) for record in records]
    if wrong := [place for place in range(len(listed)) if stored[place] != listed[place]]:
        named = _some([shard.rows[place] for place in wrong])
        found, expected = (
            f"{sample_id!r}, label {label}"
            for sample_id, label in (stored[wrong[0]], listed[wrong[0]])
        )
        yield StoreFinding(
            "manifest",
            f"shard {shard.number}",
            f"rows {named} have another label or sample_id than in the manifest: {found}, where "
            f"the manifest has {expected}",
        )


def _check_logits(shard: Shard, cells: Cells) -> Iterator[StoreFinding]:
    good, bad = cells.status == Status.GOOD, bad_logits(cells.logits)
    for wrong, message in (
        (good & bad, "NaN, infinite or constant"),
        (good & ~bad & (cells.logits.max(axis=1) != 0), "not centred: their maximum is not 0"),
    ):
        places = [cells.coordinates[place] for place in np.flatnonzero(wrong)]
        yield from _of_cells("bad logits", shard, places, message)


def _check_views(
    shard: Shard, cells: Cells, records: Sequence[VideoRecord], policy: ViewsConfig, spec: StoreSpec
) -> Iterator[StoreFinding]:
    """Compute the digest of every view again, from the manifest and the policy."""
    by_row = dict(zip(shard.rows, records, strict=True))
    undecoded = ~np.isin(cells.status, [Status.GOOD, Status.BAD_LOGITS])
    left_out = {it for it, bad in zip(cells.coordinates, undecoded, strict=True) if bad}
    groups = MixGroups(policy, by_row, store_groups(policy, by_row), left_out)
    wrong = []
    for place, (row, view_index) in enumerate(cells.coordinates):
        if cells.status[place] != Status.GOOD:
            continue
        view = groups.view(row, view_index, num_frames=spec.num_frames)
        if view.digest != cells.view_digest[place]:
            wrong.append((row, view_index))
    message = "under the digest of another view, so rows or views are out of place"
    yield from _of_cells("view", shard, wrong, message)


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
        yield StoreFinding("duplicate", f"shard {shard.number}", message)


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
            # As bytes, because NaN is not equal to itself.
            if getattr(cells, name)[mine].tobytes() != getattr(fragment, name).tobytes()
        ]
        if differing:
            yield StoreFinding(
                "journal",
                f"shard {shard.number}",
                f"unit {unit.number} differs from {fragment_name(unit.number)} in "
                f"{', '.join(differing)}: the shard was not made from this journal",
            )


def _check_labels(figures: Sequence[ShardFigures], num_classes: int) -> Iterator[StoreFinding]:
    """Find shards whose top-1 is at chance while that of the rest of the store is well above."""
    for shard in figures:
        others = [other for other in figures if other is not shard and other.num_labelled]
        if not others or shard.num_classes < 2:  # a single class may be one it never learnt
            continue
        num_cells = sum(other.num_labelled for other in others)
        rest = sum(other.num_hits for other in others) / num_cells
        chance = 1 / num_classes
        deviation = float(np.sqrt(chance * (1 - chance) / shard.num_labelled))
        ignorant = shard.top1 < chance + CHANCE_DEVIATIONS * deviation
        if ignorant and rest > chance + SANE_DEVIATIONS * deviation:
            yield StoreFinding(
                "labels",
                f"shard {shard.number}",
                f"top-1 {shard.top1:.3f} of {shard.num_labelled} cells, {rest:.3f} in the rest of "
                "the store: logits of another teacher, or in another order",
            )


def _check_other_files(store: LogitStore) -> Iterator[StoreFinding]:
    """Verify the files that belong to no shard, and name those that belong to nothing.

    Temporary files are no finding: either a job is at work, or ``jobs/gc.py`` will delete them.
    """
    spec = store.spec
    of_shards = {name for number in range(spec.num_shards) for name in shard_names(spec, number)}
    yield from damaged_files(store, sorted(store.seal.entries.keys() - of_shards))
    try:
        find_videos(store.root, spec)
    except StoreCorrupt as error:
        yield _damage(error)
    orphans = [
        name
        for name in sorted(set(list_tree(store.root)) - own_names(spec))
        if not name.startswith(f"{GENERATIONS}/") and not is_temporary(name)
    ]
    if orphans:
        message = f"{len(orphans)} files belong neither to seal nor journal: {_some(orphans)}"
        yield StoreFinding("orphan", store.root, message)


def damaged_files(store: SealedStore[Any], names: Iterable[str]) -> Iterator[StoreFinding]:
    """Read files of any sealed store; yield a finding for each that is not as sealed."""
    for name in names:
        try:
            store.read(name)
        except StoreCorrupt as error:
            yield _damage(error)


def _figures(
    shard: Shard, cells: Cells, records: Sequence[VideoRecord], called: NDArray[np.int64]
) -> ShardFigures:
    """Sum up a shard, and count its good cells in ``called``."""
    good = (cells.status == Status.GOOD) & ~bad_logits(cells.logits)
    logits = cells.logits[good].astype(np.float64)
    here = [records[row - shard.rows.start] for row in cells.row[good]]
    labels = np.array([record.label_number for record in here], int)
    labelled = labels != UNLABELLED
    labels, first = labels[labelled], logits.argmax(axis=1)[labelled]
    np.add.at(called, (labels, first), 1)
    exponentials = np.exp(logits)
    total = exponentials.sum(axis=1)
    entropy = np.log(total) - (exponentials * logits).sum(axis=1) / total
    mean = float(entropy.mean()) if len(entropy) else 0.0
    num_classes, num_hits = len(set(labels.tolist())), int((first == labels).sum())
    return ShardFigures(shard.number, len(logits), len(labels), num_classes, num_hits, mean)


def _damage(error: StoreCorrupt) -> StoreFinding:
    return StoreFinding("damaged file", error.uri, f"{error.expected}; {error.found}")


def _of_cells(
    kind: str, shard: Shard, places: Sequence[tuple[int, int]], message: str
) -> Iterator[StoreFinding]:
    """Yield one finding that is about all of these (row, view_index), if there are any."""
    if places:
        named = _some([f"row {row}, view {view_index}" for row, view_index in places])
        message = f"{len(places)} cells are {message}: {named}"
        yield StoreFinding(kind, f"shard {shard.number}", message)


def _some(things: Sequence[object]) -> str:
    more = f" and {len(things) - MAX_NAMED} more" if len(things) > MAX_NAMED else ""
    return "; ".join(map(str, things[:MAX_NAMED])) + more
