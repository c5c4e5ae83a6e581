"""Inheritance: cells that other generations hold already, taken over before the teacher runs.

A unit that the others hold whole goes to the journal as it is. For every other unit, the cells that
were found are written to a file, once::

    <home>/journal/inherited-000012.parquet     footer as of a fragment; may hold no cell at all

From then on the file decides which cells need not be run. So every job that runs the unit, after
any kill or at the same time, runs the same rest, and the other generations may be deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.manifest import Manifest
from pipeline.logits.cells import Cells, chosen, joined, pick
from pipeline.logits.generations import content_of, find_spec, find_videos, list_generations
from pipeline.logits.journal import create_inherited, read_fragment, read_inherited, write_fragment
from pipeline.logits.spec import Shard, StoreSpec, Unit, cell_identity, plan_units
from pipeline.logits.store import LogitStore, open_store
from pipeline.storage.sealed.store import find_seal, finished_units


@dataclass(frozen=True, eq=False)
class Donor:
    """Another generation at the same root, and its rows of the new generation's videos."""

    home: str
    spec: StoreSpec
    store: LogitStore | None  # if it is sealed; otherwise cells are read from the journal
    units: tuple[Unit, ...]
    finished: frozenset[int]  # units that were in the journal when the donor was found
    row_of: NDArray[np.int32]  # (N,) of the new generation; -1 where there is no such video
    status: NDArray[np.uint8]  # (N,) of the new generation's videos

    def cells(self, rows: range) -> Cells:
        """Read the cells that it holds of ``rows`` of the new generation, under their new numbers.

        A cell is taken if it has the status of its video in the manifest. A good video's cell that
        failed in stage one, by a decoder that ran out of time for example, is tried again.
        """
        here = np.arange(rows.start, rows.stop, dtype=np.int32)
        there = self.row_of[here]
        here, there = here[there >= 0], there[there >= 0]
        new_row = np.full(self.spec.num_rows, -1, np.int32)
        new_row[there] = here
        found = joined(self._read(there), self.spec)
        row = new_row[found.row]
        wanted = (row >= 0) & (found.status == self.status[row])
        return chosen(Cells(**vars(found) | {"row": row}), wanted)

    def _read(self, rows: NDArray[np.int32]) -> list[Cells]:
        spec = self.spec
        if self.store is None:
            numbers = set((rows // spec.rows_per_unit).tolist()) & self.finished
            return [read_fragment(self.home, spec, self.units[n]) for n in sorted(numbers)]
        return [
            pick(self.store.read_shard(n), spec.shard_rows(n), spec)
            for n in np.unique(rows // spec.rows_per_shard).tolist()
        ]


def find_donors(root: str, home: str, spec: StoreSpec, manifest: Manifest) -> list[Donor]:
    """Find the other generations at ``root`` that hold the same cells as the one at ``home``.

    Every cell is verified when it is taken.
    """
    donors = []
    for other in list_generations(root):
        there = None if other == home else find_spec(other)
        if there is None or cell_identity(there.identity) != cell_identity(spec.identity):
            continue
        same = there.identity["dataset"] == spec.identity["dataset"]
        if spec.mixes and not same:
            continue  # among other videos the partners are others
        if videos := manifest if same else find_videos(other, there):
            store = None if find_seal(other) is None else open_store(other)
            donor = Donor(
                home=other,
                spec=there,
                store=store,
                units=() if store else tuple(plan_units(there, videos.records)),
                finished=frozenset() if store else frozenset(finished_units(other)),
                row_of=_rows_of(videos, manifest),
                status=np.array([record.status for record in manifest.records], np.uint8),
            )
            donors.append(donor)
    return donors


def inherit_units(
    home: str, spec: StoreSpec, shard: Shard, donors: Sequence[Donor], finished: Set[int]
) -> dict[int, frozenset[tuple[int, int]]]:
    """Take over the cells that donors hold of a shard's units, unless they are ``finished``.

    Returns, for each unit that is still not in the journal, the (row, view_index) of the cells that
    need not be run. StoreCorrupt if a donor is damaged, or a file of inherited cells.
    """
    todo = [unit for unit in shard.units if unit.number not in finished]
    found = joined([], spec)
    for donor in donors if todo else ():
        theirs = donor.cells(shard.rows)
        found = joined([found, chosen(theirs, ~_among(theirs, found.coordinates))], spec)
    remaining = {}
    for unit in todo:
        mine = chosen(found, _among(found, unit.coordinates))
        if spec.mixes:
            mine = chosen(mine, _whole(mine, unit, spec))
        if len(mine) == len(unit.coordinates):
            write_fragment(home, spec, unit, mine)
        else:
            if not create_inherited(home, spec, unit.number, mine):
                mine = read_inherited(home, spec, unit.number)
            remaining[unit.number] = frozenset(mine.coordinates)
    return remaining


def _among(cells: Cells, places: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return which cells, (n,), are at one of these places."""
    wanted = set(places)
    return np.array([place in wanted for place in cells.coordinates], bool)


def _whole(cells: Cells, unit: Unit, spec: StoreSpec) -> NDArray[np.bool_]:
    """Return which cells, (n,), are of views that all videos of the unit have here.

    Of a view that is run in part, clips could be mixed with others than those that are known.
    """
    wanted, there = (Counter(view for _, view in it.coordinates) for it in (unit, cells))
    return np.array([there[view] == wanted[view] for view in cells.view_index.tolist()], bool)


def _rows_of(videos: Manifest, manifest: Manifest) -> NDArray[np.int32]:
    """Return, for each row of ``manifest``, the row of the same video in ``videos``, or -1."""
    there = {
        record.sample_id: (row, content_of(record)) for row, record in enumerate(videos.records)
    }
    rows = np.full(len(manifest.records), -1, np.int32)
    for place, record in enumerate(manifest.records):
        row, content = there.get(record.sample_id, (-1, None))
        if content == content_of(record):
            rows[place] = row
    return rows
