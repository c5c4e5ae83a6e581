"""Which clips are mixed with which: mixup and CutMix, drawn so that they can be cached.

The published recipe mixes the clips of a batch, so that its targets depend on the batch. Here the
partner is a function of the view. Neighbouring rows of the manifest make a group, and each view
index is a round of a tournament in which every video of a group meets another one. A unit of stage
one holds whole groups, so nothing is decoded twice, and neighbours are of any class, because rows
stand in a keyed order.

Both videos of a pair are mixed with each other, with one share and one box, which depend on neither
batches nor workers. Beta distributions are drawn from a table, in integers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from functools import cached_property, lru_cache
from itertools import accumulate
from math import isqrt

from pipeline.config.schema import MixConfig, ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.views.view import MIX_GRID, SHARE_STEPS, Draws, Mix, View, build_view, keyed_hash

BETA_STEPS = SHARE_STEPS // 2


@dataclass(frozen=True, eq=False)
class MixGroups:
    """The pairs of videos that are mixed, view by view.

    ``group_of`` names the group of each row that is mixed at all. ``left_out`` are the
    (row, view_index) whose pixels cannot be had; their partners stay as they are.
    """

    policy: ViewsConfig
    records: Mapping[int, VideoRecord]
    group_of: Mapping[int, int]
    left_out: Set[tuple[int, int]] = frozenset()

    @property
    def _mix(self) -> MixConfig:
        assert self.policy.mix is not None, "without mixing nobody has a partner"
        return self.policy.mix

    @cached_property
    def _groups(self) -> Mapping[int, list[int]]:
        groups = defaultdict[int, list[int]](list)
        for row, group in self.group_of.items():
            groups[group].append(row)
        for members in groups.values():
            members.sort(key=lambda row: keyed_hash(self.policy.seed, "mix", self._name(row)))
        return groups

    def group_name(self, row: int) -> str:
        return f"mix group {self.group_of[row]}"

    def partner(self, row: int, view_index: int) -> int | None:
        """Return the row that a row is mixed with in a view of training, or None."""
        if view_index < 0:
            return None
        group = self._groups[self.group_of[row]]
        place = _opponent(group.index(row), len(group), view_index)
        if place is None:
            return None
        partner = group[place]
        if not self.left_out.isdisjoint([(row, view_index), (partner, view_index)]):
            return None
        draws = self._draws(row, partner, view_index)
        return partner if draws.chance("mix", 0, self._mix.probability) else None

    def view(self, row: int, view_index: int, *, num_frames: int) -> View:
        """Return a view, mixed if it has a partner."""
        view = build_view(self.policy, self.records[row], view_index, num_frames=num_frames)
        partner = self.partner(row, view_index)
        if partner is None:
            return view
        other = build_view(self.policy, self.records[partner], view_index, num_frames=num_frames)
        return self.mixed(view, row, other, partner)

    def mixed(self, view: View, row: int, other: View, partner: int) -> View:
        """Mix the view of a row with that of its partner."""
        draws = self._draws(row, partner, view.view_index)
        if not draws.chance("mix", 1, self._mix.cutmix_probability):
            share, box = _beta(draws, self._mix.mixup_alpha), (0, 0, 0, 0)
        else:
            share, box = SHARE_STEPS, _box(draws, _beta(draws, self._mix.cutmix_alpha))
        partner_digest = keyed_hash(self._name(partner), other.digest)
        return replace(view, mix=Mix(share, box, partner_digest))

    def _draws(self, row: int, partner: int, view_index: int) -> Draws:
        pair = "|".join(sorted((self._name(row), self._name(partner))))
        return Draws(self.policy.seed, pair, view_index)

    def _name(self, row: int) -> str:
        return self.records[row].sample_id


def group_size(policy: ViewsConfig) -> int:
    """Return how many neighbouring rows make a group; without mixing each is alone."""
    return policy.mix.group_size if policy.mix else 1


def store_groups(policy: ViewsConfig, records: Mapping[int, VideoRecord]) -> dict[int, int]:
    """Return the group of each row that a store mixes: all good videos of train, by neighbours."""
    size = group_size(policy)
    return {
        row: row // size
        for row, record in records.items()
        if record.good and record.split == "train"
    }


def live_groups(policy: ViewsConfig, rows: Collection[int]) -> dict[int, int]:
    """Return groups among some rows alone, whole ones, in the order of rows."""
    size = group_size(policy)
    return {row: place // size for place, row in enumerate(sorted(rows))}


def _opponent(place: int, count: int, turn: int) -> int | None:
    """Return whom a player meets in a turn of a round-robin tournament; None: this turn nobody.

    In ``count - 1`` turns each meets all others once (the circle method); of an odd number one sits
    out in each turn.
    """
    last = count - 1 + count % 2
    still = turn % last
    if place in (still, last):
        opponent = last if place == still else still
    else:
        opponent = (2 * still - place) % last
    return opponent if opponent < count else None


def _box(draws: Draws, share: int) -> tuple[int, int, int, int]:
    """Draw a box of the area that ``share`` leaves, about any pixel, cut at the picture's edge."""
    side = isqrt((SHARE_STEPS - share) * MIX_GRID**2 // SHARE_STEPS)
    edges = []
    for position in (3, 4):
        start = draws.below("mix", position, MIX_GRID) - side // 2
        edges.append((max(start, 0), min(start + 2 * (side // 2), MIX_GRID)))
    (top, bottom), (left, right) = edges
    return top, left, bottom, right


def _beta(draws: Draws, alpha: float) -> int:
    """Draw a share, odd and in 1 / SHARE_STEPS, from Beta(alpha, alpha)."""
    table = _beta_table(alpha)
    return 2 * bisect_right(table, draws.below("mix", 2, table[-1])) + 1


@lru_cache(maxsize=4)
def _beta_table(alpha: float) -> list[int]:
    """Sum up the density at the middle of each step, in integers: the same on every machine."""
    context = Context(prec=40)
    exponent = context.create_decimal_from_float(alpha - 1.0)
    # Of x (1 - x), as a part of its maximum; all together stay far below the 64 bits of a draw.
    density = (
        context.power(
            Decimal((2 * step + 1) * (SHARE_STEPS - 2 * step - 1)) / BETA_STEPS**2, exponent
        )
        for step in range(BETA_STEPS)
    )
    return list(accumulate(max(1, int(value.scaleb(9))) for value in density))
