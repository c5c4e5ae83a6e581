"""The clips of a training run: which view a video shows in an epoch, and with whom it is mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.dataset.manifest import VideoRecord
from pipeline.networks.recipe import Recipe
from pipeline.training.proof import is_audited
from pipeline.views.loader import ClipRequest
from pipeline.views.mix import MixGroups


@dataclass(frozen=True, eq=False)
class TrainingClips:
    """Requests for clips, by epoch and row.

    ``groups`` are the pairs that are mixed, if the policy mixes. ``replays``: the clips are those
    of the store, so a share of them is proved.
    """

    recipe: Recipe
    records: Sequence[VideoRecord]
    groups: MixGroups | None
    replays: bool

    def request(self, epoch: int, row: int) -> ClipRequest:
        view_index, partner = self._view_index(epoch, row), self.partner(epoch, row)
        train = self.recipe.train
        # Both of a pair are audited, or none.
        first = row if partner is None else min(row, partner)
        proved = self.replays and is_audited(train.seed, epoch, first, train.audit_rate)

        def plain(row: int) -> ClipRequest:
            record = self.records[row]
            view = self.recipe.view(record, view_index)
            return ClipRequest(row, record, view, self.recipe.frame_stride, prove=proved)

        own = plain(row)
        if self.groups is None or partner is None:
            return own
        other = plain(partner)
        view = self.groups.mixed(own.view, row, other.view, partner)
        return replace(own, view=view, partner=other)

    def partner(self, epoch: int, row: int) -> int | None:
        """Return the row that a row is mixed with in an epoch, or None."""
        if self.groups is None:
            return None
        return self.groups.partner(row, self._view_index(epoch, row))

    def _view_index(self, epoch: int, row: int) -> int:
        # A mix group shows one view, so that both of a pair do.
        groups = self.groups
        name = groups.group_name(row) if groups else self.records[row].sample_id
        return self.recipe.view_index(name, epoch)
