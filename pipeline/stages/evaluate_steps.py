"""The two steps of an evaluation: cut a video's views, and run every network over them.

Tables in, tables out, a few videos a block. Nothing here knows Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.config.experiment import ExperimentConfig
from pipeline.config.schema import VideoLimits, ViewsConfig
from pipeline.dataset.manifest import VideoRecord, records_of, records_table
from pipeline.errors import Status, VideoDecodeError, WeightsMismatch
from pipeline.networks.recipe import Recipe
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import Protocol, evaluation_views

if TYPE_CHECKING:
    from pipeline.networks.forward import ClipNetwork


@dataclass(frozen=True)
class Look:
    """The settings that cut a network's clips. Networks with equal looks get the same pixels."""

    policy: ViewsConfig
    num_frames: int  # of the view
    frame_stride: int  # the clip has one in frame_stride of them
    side: int

    @classmethod
    def of(cls, recipe: Recipe) -> Look:
        return cls(recipe.policy, recipe.num_frames, recipe.frame_stride, recipe.side)


@dataclass(frozen=True)
class Candidate:
    """A network to evaluate, by its file; ``config`` describes one whose file does not."""

    name: str
    uri: str
    digest: str
    look: Look
    config: ExperimentConfig


CLIPS_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("look", pa.int32()),
        ("status", pa.uint8()),
        ("reason", pa.string()),
        ("frames", pa.large_binary()),  # uint8 (views, T, side, side, 3); null where not good
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("network", pa.string()),
        ("status", pa.uint8()),
        ("reason", pa.string()),
        ("probabilities", pa.list_(pa.float64())),  # (K,), the mean over the views
    ]
)


def videos_block(rows: Sequence[int], records: Sequence[VideoRecord]) -> pa.Table:
    """Return videos as the block that ``ViewCutter`` takes."""
    return records_table(records).append_column("row", pa.array(rows, pa.int32()))


class ViewCutter:
    """Decode all views of a protocol, once for each look."""

    def __init__(self, looks: Sequence[Look], protocol: Protocol, limits: VideoLimits) -> None:
        self._looks, self._protocol, self._limits = looks, protocol, limits
        self._decoder = DecodeProcess()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Turn videos into their clips, one row for a video and a look."""
        rows = block.column("row").to_pylist()
        cut = [
            {"row": row, "look": number, **self._cut(record, look)}
            for row, record in zip(rows, records_of(block), strict=True)
            for number, look in enumerate(self._looks)
        ]
        return pa.Table.from_pylist(cut, schema=CLIPS_SCHEMA)

    def close(self) -> None:
        """End the decoding process; in an actor it ends with the actor."""
        self._decoder.close()

    def _cut(self, record: VideoRecord, look: Look) -> dict[str, Any]:
        views = evaluation_views(look.policy, record, self._protocol, num_frames=look.num_frames)
        seen = [view.every(look.frame_stride) for view in views]
        try:
            clips = self._decoder.clips(record, seen, self._limits, side=look.side, prove=False)
        except VideoDecodeError as error:
            return {"status": error.status, "reason": str(error), "frames": None}
        frames = b"".join(clip.frames.tobytes() for clip in clips)
        return {"status": Status.GOOD, "reason": None, "frames": frames}


class Scorer:
    """Run every network over the clips of a block."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        class_names: tuple[str, ...],
        protocol: Protocol,
        config: ExperimentConfig,
    ) -> None:
        import torch  # imported here, so that the cutters start without it

        torch.set_num_threads(config.cluster.teacher_threads)
        self._device = torch.device("cuda" if config.cluster.use_gpu else "cpu")
        self._config, self._num_views = config, protocol.num_views
        self._candidates, self._class_names = candidates, class_names

    def __call__(self, block: pa.Table) -> pa.Table:
        """Turn clips into probabilities, one row for a video and a network."""
        looks = looks_of(self._candidates)
        rows: list[dict[str, Any]] = []
        for candidate in self._candidates:
            number = looks.index(candidate.look)
            clips = block.filter(pa.array(np.asarray(block.column("look")) == number))
            rows += self._score(candidate, clips)
        return pa.Table.from_pylist(rows, schema=SCORES_SCHEMA)

    @cached_property
    def _networks(self) -> Mapping[str, ClipNetwork]:
        """The networks by name; not loaded in __init__, of whose errors Ray keeps only the text."""
        return {candidate.name: self._load(candidate) for candidate in self._candidates}

    def _score(self, candidate: Candidate, clips: pa.Table) -> list[dict[str, Any]]:
        columns, look = ("row", "status", "reason"), candidate.look
        rows = [
            {"network": candidate.name, **values} for values in clips.select(columns).to_pylist()
        ]
        good = [row for row in rows if row["status"] == Status.GOOD]
        if good:
            values = [value for value in clips.column("frames") if value.is_valid]
            flat = np.concatenate([np.frombuffer(value.as_buffer(), np.uint8) for value in values])
            shape = (look.num_frames // look.frame_stride, look.side, look.side, 3)
            frames = flat.reshape(-1, *shape)  # (videos x views, T, side, side, 3)
            probabilities = self._networks[candidate.name].probabilities(
                frames, batch_size=self._config.evaluate.batch_size
            )
            means = probabilities.reshape(len(good), self._num_views, -1).mean(axis=1)
            for row, mean in zip(good, means, strict=True):
                row["probabilities"] = mean.tolist()
        return rows

    def _load(self, candidate: Candidate) -> ClipNetwork:
        from pipeline.networks.trained import TEACHER, load_teacher, load_trained

        if candidate.name == TEACHER:
            loaded = load_teacher(candidate.config, self._class_names)
        else:
            loaded = load_trained(candidate.uri, candidate.config, self._class_names)
        if loaded.digest != candidate.digest:
            raise WeightsMismatch(
                f"{candidate.uri} holds other weights here than those that the evaluation began "
                "with. Run it again."
            )
        return loaded.on(self._device)


def looks_of(candidates: Sequence[Candidate]) -> list[Look]:
    """Return the looks of networks, each once."""
    return list(dict.fromkeys(candidate.look for candidate in candidates))
