"""Predictions of a trained network for any video, whole or in sliding windows.

A weights file and a video are enough: there is no Ray and no data set. Videos come from anywhere,
so they are decoded in a separate process, like everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.config.load import load_config
from pipeline.config.schema import VideoLimits
from pipeline.dataset.folders import is_video_name, why_no_video
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import ConfigError, DatasetError, VideoDecodeError
from pipeline.frames.source import read_videos
from pipeline.networks.trained import TrainedNetwork, load_trained
from pipeline.storage.files import exists, join_uri, list_tree
from pipeline.tracking.progress import Progress
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import Protocol, View, evaluation_views

BATCH_SIZE = 8
# The limits of the training data do not hold here: a video may be long.
LIMITS = VideoLimits(
    max_frames=10**9, max_duration_seconds=1e9, max_bytes=8 * 2**30, decode_seconds=3600
)


@dataclass(frozen=True)
class Windows:
    """Length and stride of the windows that slide over a video."""

    window_seconds: float
    stride_seconds: float

    def spans(self, num_frames: int, frame_rate: float) -> list[range]:
        """Return the frames of each window; the last one ends where the video does."""
        if not frame_rate > 0:
            raise ConfigError("windows in seconds need a frame rate, and this video names none")
        length = min(max(1, round(self.window_seconds * frame_rate)), num_frames)
        stride = max(1, round(self.stride_seconds * frame_rate))
        starts = [*range(0, num_frames - length, stride), num_frames - length]
        return [range(start, start + length) for start in starts]


@dataclass(frozen=True)
class VideoPrediction:
    """The probabilities of the classes of one video, in W windows."""

    record: VideoRecord
    class_names: tuple[str, ...]
    spans: tuple[range, ...]  # the frames of each window
    probabilities: NDArray[np.float64]  # (W, K)

    @property
    def overall(self) -> NDArray[np.float64]:
        """The mean over the windows, float64 ``(K,)``."""
        return np.asarray(self.probabilities.mean(axis=0))

    def top(self, count: int, window: int | None = None) -> list[tuple[str, float]]:
        """Return the likeliest classes, of one window or the whole video, with probabilities."""
        values = self.overall if window is None else self.probabilities[window]
        likeliest = np.argsort(-values, kind="stable")[:count]
        return [(self.class_names[label], float(values[label])) for label in likeliest]

    def seconds(self, frame: int) -> float | None:
        """Return the time of a frame, if the frame rate is known."""
        return frame / self.record.frame_rate if self.record.frame_rate > 0 else None

    def as_dict(self, count: int) -> dict[str, Any]:
        """Return the ``count`` likeliest classes, overall and by window, as plain JSON values."""

        def named(window: int | None = None) -> list[dict[str, Any]]:
            return [{"class": name, "probability": p} for name, p in self.top(count, window)]

        answer: dict[str, Any] = {"uri": self.record.uri, "num_frames": self.record.num_frames}
        answer["predictions"] = named()
        if len(self.spans) > 1:
            answer["windows"] = [
                {
                    "start_seconds": self.seconds(span.start),
                    "end_seconds": self.seconds(span.stop),
                    "predictions": named(window),
                }
                for window, span in enumerate(self.spans)
            ]
        return answer


class Predictor:
    """A trained network with a decoder process, which a ``with`` closes."""

    def __init__(
        self,
        trained: TrainedNetwork,
        *,
        protocol: Protocol | None = None,
        windows: Windows | None = None,
        limits: VideoLimits = LIMITS,
        device: str = "cpu",
    ) -> None:
        self._decoder = DecodeProcess()
        self._trained, self._windows, self.limits = trained, windows, limits
        self._protocol = protocol or Protocol()
        self._network = trained.on(torch.device(device))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    __del__ = __exit__  # where there is no ``with``

    def predict(self, uri: str) -> VideoPrediction:
        """Predict one video; VideoDecodeError if it cannot be decoded, or exceeds the limits."""
        record = VideoRecord(sample_id=PurePosixPath(uri).stem, uri=uri, label=0, split="val")
        record = self._decoder.probe(record, self.limits)
        spans = [range(record.num_frames)]
        if self._windows is not None:
            spans = self._windows.spans(record.num_frames, record.frame_rate)
        views = [view for span in spans for view in self._views(record, span)]
        probabilities = np.empty((len(views), len(self._trained.class_names)))
        clips = self._decoder.each_clip(record, views, self.limits, side=self._trained.recipe.side)
        # In batches as they come, so that memory does not grow with the video.
        while batch := list(islice(clips, BATCH_SIZE)):
            frames = np.stack([clip.frames for _, clip in batch])
            numbers = [number for number, _ in batch]
            probabilities[numbers] = self._network.probabilities(frames, batch_size=BATCH_SIZE)
        means = probabilities.reshape(len(spans), self._protocol.num_views, -1).mean(axis=1)
        return VideoPrediction(record, self._trained.class_names, tuple(spans), means)

    def _views(self, record: VideoRecord, span: range) -> Iterator[View]:
        """Yield the protocol's views of a window, as if it were a video of its own."""
        recipe = self._trained.recipe
        window = replace(record, num_frames=len(span))
        for view in evaluation_views(
            recipe.policy, window, self._protocol, num_frames=recipe.num_frames
        ):
            frames = tuple(span.start + index for index in view.frame_indices)
            yield replace(view, frame_indices=frames).every(recipe.frame_stride)


def load_described(uri: str, config_file: str | None) -> TrainedNetwork:
    """Load a network by its file, and by an experiment's config where the file says too little.

    The classes of such a file are those of the experiment's manifest in their order; without a
    manifest they are those of its head, which ``teacher.class_names`` lists.
    """
    if config_file is None:
        return load_trained(uri)
    config = load_config(config_file)
    there = exists(config.manifest_uri)
    return load_trained(uri, config, read_videos(config).class_names if there else ())


def load_student(
    uri: str, config: str | None = None, *, windows: Windows | None = None, device: str = "cpu"
) -> Predictor:
    """Load a trained network, a student or a teacher, to ``predict`` videos.

    ``config`` is the YAML file of an experiment, for weights that do not say how they were trained.
    """
    return Predictor(load_described(uri, config), windows=windows, device=device)


def plan_looks(
    num_clips: int, num_crops: int, window_seconds: float | None, stride_seconds: float | None
) -> tuple[Protocol, Windows | None]:
    """Check the settings of ``predict``; ConfigError for an impossible protocol or window."""
    try:
        protocol = Protocol(num_clips, num_crops)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if window_seconds is None:
        if stride_seconds is not None:
            raise ConfigError("a stride goes with a window: give --window-seconds, too")
        return protocol, None
    stride = window_seconds / 2 if stride_seconds is None else stride_seconds
    if not (window_seconds > 0 and stride > 0):
        raise ConfigError(f"window and stride must be positive, got {window_seconds} and {stride}")
    return protocol, Windows(window_seconds, stride)


def look_at_all(
    predictor: Predictor, uris: Sequence[str]
) -> tuple[list[VideoPrediction], list[VideoDecodeError]]:
    """Predict every video; unreadable ones are returned beside the predictions."""
    predictions, failures = [], []
    with Progress("predict", len(uris), "videos") as progress:
        for uri in progress.over(uris):
            try:
                predictions.append(predictor.predict(uri))
            except VideoDecodeError as error:
                failures.append(error)
    return predictions, failures


def plan_limits(
    max_seconds: float | None, max_bytes: int | None, decode_seconds: float | None
) -> VideoLimits:
    """Return the limits of prediction; None leaves one as it is, ConfigError if not positive."""
    given = {
        "max_duration_seconds": max_seconds,
        "max_bytes": max_bytes,
        "decode_seconds": decode_seconds,
    }
    wanted = {name: value for name, value in given.items() if value is not None}
    try:
        return VideoLimits.model_validate(LIMITS.model_dump() | wanted)
    except ValidationError as error:
        raise ConfigError(f"limits must be positive: {wanted}") from error


def find_videos(uris: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return each named video and all videos of each folder, sorted; and what is left out, and why.

    DatasetError if there is nothing at a URI, or a folder without a video.
    """
    videos: list[str] = []
    left_out: dict[str, str] = {}
    for uri in uris:
        # A file that is named itself is always tried; list_tree() lists a file as "".
        if is_video_name(PurePosixPath(uri).name) or (names := list_tree(uri)) == [""]:
            videos.append(uri)
            continue
        reasons = {join_uri(uri, name): why_no_video(PurePosixPath(name).name) for name in names}
        found = [video for video, reason in reasons.items() if not reason]
        if not found:
            among = f" among its {len(names)} files" if names else ""
            raise DatasetError(f"{uri} is neither a video nor a folder that has any{among}")
        videos += found
        left_out |= {file: reason for file, reason in reasons.items() if reason}
    return videos, left_out
