"""Small generated data sets as real H.264 files, made from a seed in seconds.

``dataset.generated.kind`` says what is drawn: ``actions`` for ``make demo``, ``gestures`` to
pre-train a teacher of filmed ones. Files have B-frames and several groups of pictures, as real
footage has.

Layout and lists are UCF101's: ``<root>/<Class>/v_<Class>_gNN_cNN.mp4`` and
``<root>/splits/{classInd,trainlist01,testlist01}.txt``. Videos of a group share the scene across
all classes, so the scene says nothing about the class; a group is wholly in ``train`` or wholly in
``val``.

A video is a pure function of (kind, seed, class, group, clip): any order or number of processes
writes the same bytes. Only another version of OpenCV, x264 or FFmpeg may write others.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.generated import actions, gestures
from pipeline.errors import ConfigError

Frames = Iterator[NDArray[np.uint8]]  # (H, W, 3) each, RGB
KindName = Literal["actions", "gestures"]


@dataclass(frozen=True)
class Kind:
    """A set of drawn classes."""

    recipe: str  # and its version
    class_names: tuple[str, ...]  # in label order
    # (class name, randomness of the group, randomness of the video) -> frames, frames a second
    render: Callable[[str, np.random.Generator, np.random.Generator], tuple[Frames, int]]


KINDS: dict[KindName, Kind] = {
    "actions": Kind(actions.RECIPE, tuple(actions.CLASSES), actions.render),
    "gestures": Kind(gestures.RECIPE, gestures.CLASSES, gestures.render),
}
ENCODER_OPTIONS = {
    "preset": "superfast",
    "tune": "fastdecode",  # no CABAC, no deblocking: the demo should not wait for its decoder
    "crf": "24",
    "bf": "2",
    "g": "24",
    "threads": "1",  # x264's decisions depend on the number of threads
}


def generate_dataset(dataset: DatasetConfig) -> int:
    """Write the videos that ``dataset.generated`` describes to ``dataset.root``.

    Raises:
        ConfigError: if it describes none, or the folder holds other videos.
    """
    if dataset.generated is None:
        raise ConfigError(f"dataset.generated: is not set; {dataset.name} is not a generated set")
    try:
        return generate_videos(Path(dataset.root), **dataset.generated.model_dump())
    except ValueError as error:
        raise ConfigError(f"dataset.generated: {error}") from error


def generate_videos(
    root: Path,
    *,
    kind: KindName = "actions",
    seed: int,
    num_groups: int,
    clips_per_group: int,
    num_val_groups: int,
    report: Callable[[str], None] = print,
) -> int:
    """Write the videos that are not there yet, and the lists.

    Args:
        root: folder of the data set; made if missing.
        kind: a key of ``KINDS``.
        seed: another seed gives other videos.
        num_groups: groups of each class.
        clips_per_group: videos of each class in a group.
        num_val_groups: how many of the groups, from the first on, are ``val``.
        report: is called with lines of progress.

    Returns:
        The number of videos in the lists.

    Raises:
        ValueError: if the counts leave a split empty or the folder holds other videos.
    """
    if not 0 < num_val_groups < num_groups or clips_per_group < 1:
        raise ValueError(
            "need 0 < num_val_groups < num_groups and clips_per_group >= 1, got"
            f" {num_val_groups}, {num_groups} and {clips_per_group}"
        )
    _claim_folder(root, f"{KINDS[kind].recipe}, seed {seed}\n")
    names = KINDS[kind].class_names
    groups, clips = range(1, num_groups + 1), range(1, clips_per_group + 1)
    videos = [(name, group, clip) for name in names for group in groups for clip in clips]
    missing = [video for video in videos if not (root / video_path(*video)).exists()]
    report(f"{root}: {len(videos)} generated videos, {len(missing)} of them to write")
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        write = partial(write_video, root, kind, seed)
        list(pool.map(write, *zip(*missing, strict=True), chunksize=16) if missing else [])
    _write_lists(root / "splits", names, videos, num_val_groups)
    return len(videos)


def video_path(class_name: str, group: int, clip: int) -> str:
    return f"{class_name}/v_{class_name}_g{group:02d}_c{clip:02d}.mp4"


def write_video(
    root: Path, kind: KindName, seed: int, class_name: str, group: int, clip: int
) -> None:
    """Render and encode one video. A file under its final name is whole."""
    scene_random = _random(seed, 0, group)
    random = _random(seed, 1, KINDS[kind].class_names.index(class_name), group, clip)
    frames, frame_rate = KINDS[kind].render(class_name, scene_random, random)
    path = root / video_path(class_name, group, clip)
    path.parent.mkdir(exist_ok=True)
    partial = _partial(path)
    _encode(partial, frames, frame_rate)
    partial.replace(path)


def _random(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def _encode(path: Path, frames: Frames, frame_rate: int) -> None:
    first = next(frames)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options=ENCODER_OPTIONS)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _claim_folder(root: Path, wanted: str) -> None:
    """Refuse a folder of another kind or seed: its videos would be taken for these."""
    note = root / "splits" / "generated.txt"
    found = note.read_text() if note.exists() else wanted
    if found != wanted:
        raise ValueError(
            f"{root} holds {found.strip()!r}, not {wanted.strip()!r}: delete it or choose another"
        )
    note.parent.mkdir(parents=True, exist_ok=True)
    _write_text(note, wanted)


def _write_lists(
    folder: Path,
    class_names: tuple[str, ...],
    videos: list[tuple[str, int, int]],
    num_val_groups: int,
) -> None:
    labels = {name: label for label, name in enumerate(class_names, start=1)}
    train = [video for video in videos if video[1] > num_val_groups]
    val = [video for video in videos if video[1] <= num_val_groups]
    _write_text(folder / "classInd.txt", "".join(f"{labels[name]} {name}\n" for name in labels))
    lines = (f"{video_path(*video)} {labels[video[0]]}\n" for video in train)
    _write_text(folder / "trainlist01.txt", "".join(lines))
    _write_text(folder / "testlist01.txt", "".join(f"{video_path(*video)}\n" for video in val))


def _write_text(path: Path, text: str) -> None:
    _partial(path).write_text(text)
    _partial(path).replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
