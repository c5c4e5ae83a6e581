"""Small generated data sets as real H.264 files, made from a seed in seconds.

``dataset.generated.kind`` says what is drawn: ``actions`` for ``make demo``, ``gestures`` to
pre-train a teacher of filmed ones. Layout and lists are UCF101's, ``<root>/splits`` holds the
lists. Videos of a group share the scene across all classes, so the scene says nothing about the
class; a group is wholly in ``train`` or wholly in ``val``.

A video is a pure function of (kind, seed, class, group, clip): any order or number of processes
writes the same bytes. Only another version of OpenCV, x264 or FFmpeg may write others.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import DatasetConfig
from pipeline.dataset.generated import actions, gestures
from pipeline.errors import ConfigError

KindName = Literal["actions", "gestures"]
# Each has a RECIPE (and its version), CLASSES in label order, FRAME_RATES, and draws frames.
KINDS = {"actions": actions, "gestures": gestures}
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
    """Write the videos that are not there yet, and the lists; return how many videos these name.

    The counts are those of each class. The first groups are ``val``.

    Raises:
        ValueError: if the counts leave a split empty or the folder holds other videos.
    """
    if not 0 < num_val_groups < num_groups or clips_per_group < 1:
        raise ValueError(
            "need 0 < num_val_groups < num_groups and clips_per_group >= 1, got"
            f" {num_val_groups}, {num_groups} and {clips_per_group}"
        )
    _claim_folder(root, f"{KINDS[kind].RECIPE}, seed {seed}\n")
    names = tuple(KINDS[kind].CLASSES)
    groups, clips = range(1, num_groups + 1), range(1, clips_per_group + 1)
    videos = [(name, group, clip) for name in names for group in groups for clip in clips]
    missing = [video for video in videos if not (root / video_path(*video)).exists()]
    report(f"{root}: {len(videos)} generated videos, {len(missing)} of them to write")
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        write = partial(write_video, root, kind, seed)
        list(pool.map(write, *zip(*missing, strict=True), chunksize=16) if missing else [])
    labels = {name: label for label, name in enumerate(names, start=1)}
    train = [video for video in videos if video[1] > num_val_groups]
    val = [video for video in videos if video[1] <= num_val_groups]
    for name, lines in (
        ("classInd", [f"{labels[name]} {name}" for name in names]),
        ("trainlist01", [f"{video_path(*video)} {labels[video[0]]}" for video in train]),
        ("testlist01", [video_path(*video) for video in val]),
    ):
        _write_text(root / "splits" / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    return len(videos)


def video_path(class_name: str, group: int, clip: int) -> str:
    return f"{class_name}/v_{class_name}_g{group:02d}_c{clip:02d}.mp4"


def write_video(
    root: Path, kind: KindName, seed: int, class_name: str, group: int, clip: int
) -> None:
    """Render and encode one video. A file under its final name is whole."""
    scene_random = _random(seed, 0, group)
    random = _random(seed, 1, list(KINDS[kind].CLASSES).index(class_name), group, clip)
    frames, frame_rate = render(kind, class_name, scene_random, random)
    path = root / video_path(class_name, group, clip)
    path.parent.mkdir(exist_ok=True)
    partial = _partial(path)
    first = next(frames)
    with av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options=ENCODER_OPTIONS)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def render(
    kind: KindName, class_name: str, scene_random: np.random.Generator, random: np.random.Generator
) -> tuple[Iterator[NDArray[np.uint8]], int]:
    """Draw a video: what its group shares by ``scene_random``, all else by ``random``.

    Returns the RGB frames (H, W, 3) in order of presentation, and how many of them a second has.
    """
    drawn = KINDS[kind]
    scene = drawn.make_scene(scene_random)
    frame_rate = int(random.choice(drawn.FRAME_RATES))
    return drawn.frames_of(random, scene, class_name), frame_rate


def _random(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


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


def _write_text(path: Path, text: str) -> None:
    _partial(path).write_text(text)
    _partial(path).replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
