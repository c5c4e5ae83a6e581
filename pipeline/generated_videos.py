"""A small, real H.264 data set for ``make demo``: eight actions, made from a seed in seconds.

One textured actor acts before a moving textured background, among smaller distractors, under a
shaking camera. Lengths, frame rates and sizes differ from video to video, and files have B-frames
and several groups of pictures, so whatever reads them meets what it would meet in real footage.

What tells the classes apart is the point:

- ``HoverCross`` and ``HoverRing`` move alike and differ by WHAT is seen: one frame is enough.
- The other six show the same actors and differ only by HOW they move. They are three pairs of
  time reversals, and all else is drawn alike, so no single frame says which of a pair it is.

A network that ignores time therefore gets a part of the videos right, and 5 of 8 at the very best.

Layout and lists are UCF101's: ``<root>/<Class>/v_<Class>_gNN_cNN.mp4`` and
``<root>/splits/{classInd,trainlist01,testlist01}.txt``. Videos of a group share the scene
(background, palette, camera) across all classes, so the scene says nothing about the class;
a group is wholly in ``train`` or wholly in ``val``.

A video is a pure function of (seed, class, group, clip): any order or number of processes writes
the same bytes. Only another version of OpenCV, x264 or FFmpeg may write others.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import DatasetConfig
from pipeline.errors import ConfigError

Image = NDArray[np.uint8]  # (H, W, 3), RGB
Array = NDArray[np.float64]

CLASSES = {  # class -> (motion, played backwards); in label order
    "Grow": ("grow", False),
    "HoverCross": ("hover", False),
    "HoverRing": ("hover", False),
    "Shrink": ("grow", True),
    "SlideDown": ("slide_down", False),
    "SlideLeft": ("slide_right", True),
    "SlideRight": ("slide_right", False),
    "SlideUp": ("slide_down", True),
}
CLASS_SHAPES = {"HoverCross": ("cross",), "HoverRing": ("ring",)}
SHAPES = ("bar", "ell", "half_disc", "wedge")  # of the others
RECTANGLES = {  # (left, top, right, bottom), in units of the radius
    "bar": [(-0.95, -0.32, 0.95, 0.32)],
    "cross": [(-0.95, -0.25, 0.95, 0.25), (-0.25, -0.95, 0.25, 0.95)],
    "ell": [(-0.7, -0.7, -0.2, 0.7), (-0.7, 0.2, 0.7, 0.7)],
}
WEDGE = [(0.0, -1.0), (0.75, 0.65), (-0.75, 0.65)]
SPRITE_SIDE = 64
FRAME_SIZES = ((96, 72), (88, 72), (80, 80), (112, 72), (72, 96), (104, 80))  # (W, H), even
FRAME_RATES = (12, 15, 24, 25, 30)
MIN_FRAMES, MAX_FRAMES = 24, 40
NUM_DISTRACTORS = 3
MARGIN = 16  # pixels of background beyond each edge, for drift and shake
ENCODER_OPTIONS = {
    "preset": "superfast",
    "tune": "fastdecode",  # no CABAC, no deblocking: the demo should not wait for its decoder
    "crf": "24",
    "bf": "2",
    "g": "24",
    "threads": "1",  # x264's decisions depend on the number of threads
}
RECIPE = "generated videos 1"  # raise the number when a seed starts to mean other videos


@dataclass(frozen=True)
class Scene:
    """What the videos of a group share; lengths in pixels."""

    background: Image  # larger than any frame by MARGIN on each side
    actor_color: Array  # (3,)
    distractor_colors: Array  # (NUM_DISTRACTORS, 3)
    shake: float
    shake_turns: Array  # (2,): oscillations in a video, in x and y
    drift: float


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
    seed: int,
    num_groups: int,
    clips_per_group: int,
    num_val_groups: int,
    report: Callable[[str], None] = print,
) -> int:
    """Write the videos that are not there yet, and the lists.

    Args:
        root: folder of the data set; made if missing.
        seed: another seed gives other videos.
        num_groups: groups of each class.
        clips_per_group: videos of each class in a group.
        num_val_groups: how many of the groups, from the first on, are ``val``.
        report: told what is being done, a line at a time.

    Returns:
        The number of videos in the lists.

    Raises:
        ValueError: if the counts leave a split empty or the folder holds another seed's videos.

    """
    if not 0 < num_val_groups < num_groups or clips_per_group < 1:
        raise ValueError(
            "need 0 < num_val_groups < num_groups and clips_per_group >= 1, got"
            f" {num_val_groups}, {num_groups} and {clips_per_group}"
        )
    _claim_folder(root, seed)
    groups, clips = range(1, num_groups + 1), range(1, clips_per_group + 1)
    videos = [(name, group, clip) for name in CLASSES for group in groups for clip in clips]
    missing = [video for video in videos if not (root / video_path(*video)).exists()]
    report(f"{root}: {len(videos)} generated videos, {len(missing)} of them to write")
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        write = partial(write_video, root, seed)
        list(pool.map(write, *zip(*missing, strict=True), chunksize=16) if missing else [])
    _write_lists(root / "splits", videos, num_val_groups)
    return len(videos)


def video_path(class_name: str, group: int, clip: int) -> str:
    """Return the path below the root, as in the official lists."""
    return f"{class_name}/v_{class_name}_g{group:02d}_c{clip:02d}.mp4"


def write_video(root: Path, seed: int, class_name: str, group: int, clip: int) -> None:
    """Render and encode one video. A file under its final name is whole."""
    scene = _make_scene(_random(seed, 0, group))
    random = _random(seed, 1, list(CLASSES).index(class_name), group, clip)
    frame_rate = int(random.choice(FRAME_RATES))
    path = root / video_path(class_name, group, clip)
    path.parent.mkdir(exist_ok=True)
    partial = _partial(path)
    _encode(partial, _render(random, scene, class_name), frame_rate)
    partial.replace(path)


def _random(seed: int, *stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def _make_scene(random: np.random.Generator) -> Scene:
    # Background, actor, distractors: far apart in hue, the actor the most saturated.
    hues = (random.uniform(0, 180) + np.array([0, 90, 60, 120, 30])) % 180
    saturations = random.uniform([40, 170, 60, 60, 60], [110, 250, 130, 130, 130])
    values = random.uniform([40, 190, 90, 90, 90], [110, 250, 170, 170, 170])
    hsv = np.stack([hues, saturations, values], axis=1).astype(np.uint8)
    colors = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float64)
    return Scene(
        background=_background(random, colors[0]),
        actor_color=colors[1],
        distractor_colors=colors[2:],
        shake=random.uniform(0.3, 1.5),
        shake_turns=random.uniform(2, 6, 2),
        drift=random.uniform(0, 6),
    )


def _background(random: np.random.Generator, color: Array) -> Image:
    """Draw noise of three grain sizes around a colour."""
    width, height = (max(sides) + 2 * MARGIN for sides in zip(*FRAME_SIZES, strict=True))
    texture = np.tile(color, (height, width, 1))
    for grain, amplitude in ((32, 20), (12, 12), (4, 6)):
        noise = random.normal(0, amplitude, (height // grain + 2, width // grain + 2, 3))
        texture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(texture, 0, 255).astype(np.uint8)


def _render(random: np.random.Generator, scene: Scene, class_name: str) -> Iterator[Image]:
    """Yield the frames of one video, in order of presentation."""
    size = np.array(FRAME_SIZES[random.integers(len(FRAME_SIZES))])  # (W, H)
    num_frames = int(random.integers(MIN_FRAMES, MAX_FRAMES + 1))
    progress = (np.arange(num_frames) + 0.5) / num_frames
    motion, backwards = CLASSES[class_name]
    texture, opacity = _sprite(random, class_name, scene.actor_color)
    poses = _poses(random, motion, 1 - progress if backwards else progress)
    shifts = _camera(random, scene, progress)
    starts = random.uniform(0, 1, (NUM_DISTRACTORS, 2)) * size
    velocities = random.uniform(-0.15, 0.15, (NUM_DISTRACTORS, 2)) * min(size)
    radii = random.uniform(0.04, 0.07, NUM_DISTRACTORS) * min(size)
    for frame in range(num_frames):
        canvas = _warp(scene.background, np.eye(2), shifts[frame] - MARGIN, size)
        centres = starts + velocities * (progress[frame] - 0.5) + shifts[frame]
        for centre, radius, color in zip(centres, radii, scene.distractor_colors, strict=True):
            _paint_disc(canvas, centre, radius, color)
        x, y, scale, degrees = poses[frame]
        turn = _rotation(degrees) * (scale * min(size) / SPRITE_SIDE)
        middle = np.full(2, SPRITE_SIDE / 2)
        offset = size / 2 + min(size) * np.array([x, y]) + shifts[frame] - turn @ middle
        actor, weight = (_warp(part, turn, offset, size) for part in (texture, opacity))
        yield cast("Image", cv2.blendLinear(actor, canvas, weight, 1 - weight))


def _poses(random: np.random.Generator, motion: str, progress: Array) -> Array:
    """Return the actor's (x, y, size, clockwise degrees) by frame, (F, 4).

    ``x`` and ``y`` count from the middle of the frame; lengths are in short sides of the frame.
    """
    size, angle = random.uniform(0.45, 0.6), random.uniform(0, 360)
    x, y = random.uniform(-0.12, 0.12, 2)
    sway = random.uniform(0.01, 0.03) * np.sin(2 * np.pi * (progress + random.uniform()))
    along = random.uniform(0.75, 0.95) * (progress - 0.5)
    columns: dict[str, tuple[Any, Any, Any, Any]] = {
        "slide_right": (x / 3 + along, y + sway, size, angle),
        "slide_down": (x + sway, y / 3 + along, size, angle),
        "grow": (x + sway, y - sway, size * (0.45 + 1.25 * progress), angle),
        "hover": (x + sway, y - sway, 1.4 * size, angle),
    }
    return np.stack(np.broadcast_arrays(*columns[motion]), axis=1)


def _camera(random: np.random.Generator, scene: Scene, progress: Array) -> Array:
    """Return the shift of everything seen, in pixels, (F, 2)."""
    heading, *phases = random.uniform(0, 2 * math.pi, 3)
    direction = scene.drift * np.array([math.cos(heading), math.sin(heading)])
    shake = np.sin(2 * math.pi * progress[:, None] * scene.shake_turns + phases)
    return cast("Array", (progress[:, None] - 0.5) * direction + scene.shake * shake)


def _sprite(
    random: np.random.Generator, class_name: str, color: Array
) -> tuple[Image, NDArray[np.float32]]:
    """Draw the actor upright: striped texture, and opacity 0..1 in the form of its shape."""
    shape = str(random.choice(CLASS_SHAPES.get(class_name, SHAPES)))
    stripes = 30 * np.sin(np.arange(SPRITE_SIDE) * 2 * math.pi / random.uniform(12, 24))
    noise = random.normal(0, 6, (SPRITE_SIDE, SPRITE_SIDE, 3))
    texture = np.clip(color + stripes[:, None, None] + noise, 0, 255).astype(np.uint8)
    mask = np.zeros((SPRITE_SIDE, SPRITE_SIDE), np.uint8)
    middle, radius = SPRITE_SIDE // 2, SPRITE_SIDE // 2 - 2
    if shape == "ring":
        cv2.circle(mask, (middle, middle), radius - 6, 255, 13, cv2.LINE_AA)
    if shape == "half_disc":
        cv2.ellipse(mask, (middle, middle + 8), (radius, radius), 0, 180, 360, 255, -1)
    rectangles = [[(a, b), (c, b), (c, d), (a, d)] for a, b, c, d in RECTANGLES.get(shape, [])]
    for corners in [WEDGE] if shape == "wedge" else rectangles:
        points = np.rint(middle + radius * np.array(corners)).astype(np.int32)
        cv2.fillConvexPoly(mask, points, 255, cv2.LINE_AA)
    return texture, (mask / 255).astype(np.float32)


def _warp(image: NDArray[Any], turn: Array, offset: Array, size: NDArray[Any]) -> NDArray[Any]:
    """Map every point p of the image to ``turn @ p + offset`` in a frame of this size."""
    return cv2.warpAffine(image, np.column_stack([turn, offset]), size.tolist())


def _rotation(clockwise_degrees: float) -> Array:
    cosine, sine = (f(math.radians(clockwise_degrees)) for f in (math.cos, math.sin))
    return np.array([[cosine, -sine], [sine, cosine]])  # clockwise as seen: y points down


def _paint_disc(canvas: Image, centre: Array, radius: float, color: Array) -> None:
    x, y, r = (round(16 * length) for length in (*centre.tolist(), radius))  # 1/16 pixel
    cv2.circle(canvas, (x, y), r, color.tolist(), -1, cv2.LINE_AA, shift=4)


def _encode(path: Path, frames: Iterator[Image], frame_rate: int) -> None:
    first = next(frames)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options=ENCODER_OPTIONS)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in (first, *frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _claim_folder(root: Path, seed: int) -> None:
    """Refuse a folder of another seed: its videos would be taken for this one's."""
    note = root / "splits" / "generated.txt"
    wanted = f"{RECIPE}, seed {seed}\n"
    found = note.read_text() if note.exists() else wanted
    if found != wanted:
        raise ValueError(
            f"{root} holds {found.strip()!r}, not {wanted.strip()!r}: delete it or choose another"
        )
    note.parent.mkdir(parents=True, exist_ok=True)
    _write_text(note, wanted)


def _write_lists(folder: Path, videos: list[tuple[str, int, int]], num_val_groups: int) -> None:
    labels = {name: label for label, name in enumerate(CLASSES, start=1)}
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
