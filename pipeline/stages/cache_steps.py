"""The three steps of a unit in stage one: decode, teacher, journal.

Tables in, tables out, one block a unit. Nothing here knows Ray: ``stream`` runs the steps on
actors, and benchmarks and tests call them directly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.manifest import UNLABELLED, VideoRecord, records_of, records_table
from pipeline.errors import PipelineError, Status, VideoDecodeError
from pipeline.logits.cells import Cells, bad_logits, centre, joined, unit_of
from pipeline.logits.journal import read_inherited, write_fragment
from pipeline.logits.spec import StoreSpec, Unit
from pipeline.views.clip import Clip
from pipeline.views.decoder import DecodeProcess
from pipeline.views.loader import UNMIXED, ClipMixing, clip_shapes, jitter_rows
from pipeline.views.mix import MixGroups, store_groups
from pipeline.views.view import View, build_view

# Between decoder and teacher a unit is one row for each wanted view. Plain Arrow types only.
FACTS_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("row", pa.int32()),
        ("view_index", pa.int16()),
        ("label", pa.int32()),
        ("status", pa.uint8()),
        ("reason", pa.string()),
        ("view_digest", pa.uint64()),
        ("partner", pa.int32()),  # place in the unit of the cell that this one is mixed with
    ]
)

# What is known of a wanted view, and its clip if there is one.
Cell = tuple[dict[str, Any], tuple[View, Clip] | None]

# Columns of a clip that the teacher passes on beside the logits.
CARRIED = ("unit", "row", "view_index", "label", "view_digest", "frame_crc", "partner")
SUMMARY_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("num_cells", pa.int32()),
        ("num_good", pa.int32()),
        ("num_labelled", pa.int32()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("num_hits", pa.int32()),
        ("teacher_seconds", pa.float64()),
        ("redo_difference", pa.float64()),
        ("failures", pa.list_(pa.string())),
    ]
)


def unit_block(
    unit: Unit, records: Sequence[VideoRecord], known: Set[tuple[int, int]] = frozenset()
) -> pa.Table:
    """Return a unit's records as the block that ``UnitDecoder`` takes.

    ``known`` are (row, view_index) of the cells that need not be run.
    """
    wanted = [
        [index for index in view_indices if (row, index) not in known]
        for row, view_indices in zip(unit.rows, unit.views, strict=True)
    ]
    table = records_table(records)
    columns = {
        "unit": pa.array([unit.number] * len(records), pa.int32()),
        "row": pa.array(unit.rows, pa.int32()),
        "view_indices": pa.array(wanted, pa.list_(pa.int16())),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


class UnitDecoder:
    """Decode all wanted views of a unit's videos, each video in one pass."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._config = config
        self._decoder = DecodeProcess()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Turn a block of records into a block of clips, a bad video into rows with its status."""
        columns = (block.column(name).to_pylist() for name in ("unit", "row", "view_indices"))
        facts: list[dict[str, Any]] = []
        cut: list[tuple[View, Clip] | None] = []
        records = {}
        for record, unit, row, view_indices in zip(records_of(block), *columns, strict=True):
            records[row] = record
            place = {"unit": unit, "row": row, "label": record.label_number}
            for cell, view_and_clip in self._cells(record, view_indices):
                facts.append(place | cell)
                cut.append(view_and_clip)
        if self._config.views.mix is not None:
            _mix(records, facts, cut, self._config)
        return pixels_added(pa.Table.from_pylist(facts, schema=FACTS_SCHEMA), cut, self._config)

    def close(self) -> None:
        """End the decoding process; in an actor it ends with the actor."""
        self._decoder.close()

    def _cells(self, record: VideoRecord, view_indices: Sequence[int]) -> list[Cell]:
        if not view_indices:
            return []
        if not record.good:
            reason = f"{record.sample_id}: {record.reason}"
            return [_bad_cell(index, record.status, reason) for index in view_indices]
        clip, policy = self._config.clip, self._config.views
        views = [
            build_view(policy, record, index, num_frames=clip.num_frames) for index in view_indices
        ]
        try:
            clips = self._decoder.clips(record, views, self._config.dataset.limits, side=clip.side)
        except VideoDecodeError as error:
            return [_bad_cell(index, error.status, str(error)) for index in view_indices]
        return [_good_cell(view, clip) for view, clip in zip(views, clips, strict=True)]


class TeacherActor:
    """Run the teacher over a unit; its clips become logits."""

    def __init__(self, config: ExperimentConfig, spec: StoreSpec) -> None:
        # Imported here, so that decoders and the journal's tasks start without torch.
        from pipeline.networks.teacher import TeacherPredictor

        self._config = config
        self._failure: PipelineError | None = None
        try:
            self._teacher = TeacherPredictor(config, spec.class_names, digest=spec.teacher_digest)
        except PipelineError as error:
            self._failure = error  # Ray keeps only the text of what a constructor raises

    def __call__(self, block: pa.Table) -> pa.Table:
        """Replace the frames of a block by logits, and add the seconds that each clip took."""
        if self._failure is not None:
            raise self._failure
        started = time.monotonic()
        # A bad clip stays in its batch as zeros, so that all others keep their place in it.
        logits = self._teacher.logits(*stack_clips(block, self._config), stack_mixing(block))
        seconds = (time.monotonic() - started) / len(logits)
        status, reason = _judge(block, logits)
        logits[status != Status.GOOD] = 0.0
        columns = {name: block.column(name) for name in CARRIED} | {
            "status": pa.array(status, pa.uint8()),
            "reason": pa.array(reason, pa.string()),
            "logits": pa.FixedSizeListArray.from_arrays(logits.ravel(), logits.shape[1]),
            "teacher_seconds": pa.array([seconds] * len(logits)),
        }
        return pa.table(columns)


def journal_unit(block: pa.Table, root: str, spec: StoreSpec, inheriting: bool = False) -> pa.Table:
    """Write a finished unit to the journal; return a row of ``SUMMARY_SCHEMA`` for the driver.

    With ``inheriting`` the block lacks cells of the unit that the journal holds as inherited.
    """
    number, cells = block.column("unit")[0].as_py(), _to_cells(block, spec)
    if inheriting:
        cells = joined([cells, read_inherited(root, spec, number)], spec)
    entry, redo_difference = write_fragment(root, spec, unit_of(spec, number, cells), cells)
    good = _numpy(block, "status") == Status.GOOD
    plain = good & np.asarray(block.column("partner").is_null())  # a mixed clip has two labels
    hits = _logits(block).argmax(axis=1) == _numpy(block, "label")
    summary = {
        "unit": number,
        "num_cells": block.num_rows,
        "num_good": int(good.sum()),
        "num_bytes": entry.num_bytes,
        "sha256": entry.sha256,
        "num_labelled": int((plain & (_numpy(block, "label") != UNLABELLED)).sum()),
        "num_hits": int(hits[plain].sum()),
        "redo_difference": redo_difference,
        "teacher_seconds": sum(block.column("teacher_seconds").to_pylist()),
        "failures": sorted(set(block.column("reason").drop_null().to_pylist())),
    }
    return pa.Table.from_pylist([summary], schema=SUMMARY_SCHEMA)


def _bad_cell(view_index: int, status: int, reason: str) -> Cell:
    facts = {"view_index": view_index, "status": status, "reason": reason, "view_digest": 0}
    return facts, None


def _good_cell(view: View, clip: Clip) -> Cell:
    facts = {"view_index": view.view_index, "status": Status.GOOD, "view_digest": view.digest}
    return facts, (view, clip)


def _mix(
    records: Mapping[int, VideoRecord],
    facts: Sequence[dict[str, Any]],
    cut: list[tuple[View, Clip] | None],
    config: ExperimentConfig,
) -> None:
    """Replace the views of mixed clips, in place, once it is known which videos can be decoded."""
    places = {(cell["row"], cell["view_index"]): place for place, cell in enumerate(facts)}
    failed = {place for place, pair in zip(places, cut, strict=True) if pair is None}
    groups = MixGroups(config.views, records, store_groups(config.views, records), failed)
    plain = list(cut)
    for (row, view_index), place in places.items():
        if (pair := plain[place]) is None:
            continue
        partner = groups.partner(row, view_index)
        if partner is not None:
            there = places[partner, view_index]
            other = plain[there]
            assert other is not None, "a partner that is not left out has a clip"
            view = groups.mixed(pair[0], row, other[0], partner)
            cut[place] = view, pair[1]
            facts[place].update(view_digest=view.digest, partner=there)


def pixels_added(
    facts: pa.Table, cut: Sequence[tuple[View, Clip] | None], config: ExperimentConfig
) -> pa.Table:
    """Add the clips of a unit to its table, as bytes of equal size; zeros stand for a bad clip.

    An evaluation view has one jitter under every policy, which then stands for all its frames.
    """
    frames, jitter = clip_shapes(config)
    arrays: dict[str, npt.NDArray[Any]] = {
        "frames": np.zeros((len(cut), *frames), np.uint8),
        "jitter": np.zeros((len(cut), *jitter), np.int16),
        "frame_crc": np.zeros((len(cut), config.clip.num_frames), np.uint32),
        "mix": np.tile(np.array(UNMIXED, np.int16), (len(cut), 1)),
    }
    for place, view_and_clip in enumerate(cut):
        if view_and_clip is not None:
            view, clip = view_and_clip
            arrays["frames"][place], arrays["frame_crc"][place] = clip.frames, clip.frame_crc
            arrays["jitter"][place] = jitter_rows([view])[0]
            if view.mix is not None:
                arrays["mix"][place] = view.mix.as_row
    for name, values in arrays.items():
        size = values.itemsize * math.prod(values.shape[1:])
        column = pa.Array.from_buffers(pa.binary(size), len(values), [None, pa.py_buffer(values)])
        facts = facts.append_column(name, column)
    return facts


def stack_clips(
    block: pa.Table, config: ExperimentConfig
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    """Return a block's frames ``(n, T, side, side, 3)`` and jitter ``(n, 1 or T, 5)``."""
    frames, jitter = clip_shapes(config)
    return _stack(block, "frames", np.uint8, frames), _stack(block, "jitter", np.int16, jitter)


def stack_mixing(block: pa.Table) -> ClipMixing | None:
    """Return how the clips of a block are mixed; None if none of them is."""
    partners = _numpy(block, "partner")
    if block.column("partner").null_count == block.num_rows:
        return None
    own = np.arange(block.num_rows)
    return ClipMixing(
        np.where(np.isnan(partners), own, partners).astype(np.int64),
        _stack(block, "mix", np.int16, (len(UNMIXED),)),
    )


def _stack(block: pa.Table, name: str, dtype: type, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return a column that ``pixels_added`` added, ``(n, *shape)``; no byte of one chunk is copied.

    A chunk from Ray's object store cannot be written to.
    """
    column = block.column(name)
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values: npt.NDArray[Any] = np.frombuffer(array.buffers()[1], dtype).reshape(-1, *shape)
    return values[array.offset : array.offset + len(array)]


def _judge(
    block: pa.Table, logits: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.uint8], list[str | None]]:
    """Return status and reason of every clip, given its logits."""
    status, reason = _numpy(block, "status").copy(), block.column("reason").to_pylist()
    for place in np.flatnonzero(bad_logits(logits) & (status == Status.GOOD)):
        status[place] = Status.BAD_LOGITS
        reason[place] = (
            f"row {block.column('row')[place]}: the teacher answered NaN, infinity or a constant"
        )
    return status, reason


def _numpy(block: pa.Table, name: str) -> npt.NDArray[Any]:
    return np.asarray(block.column(name).to_numpy())


def _logits(block: pa.Table) -> npt.NDArray[np.float32]:
    """Return the logits of a block, float32 ``(n, K)``."""
    column = block.column("logits").combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


def _to_cells(block: pa.Table, spec: StoreSpec) -> Cells:
    centred, offset = centre(_logits(block))
    return Cells(
        row=_numpy(block, "row"),
        view_index=_numpy(block, "view_index"),
        status=_numpy(block, "status"),
        logits=centred,
        logit_offset=offset,
        view_digest=_numpy(block, "view_digest"),
        frame_crc=_stack(block, "frame_crc", np.uint32, (spec.num_frames,)),
    )
