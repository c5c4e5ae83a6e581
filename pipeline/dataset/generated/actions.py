"""Eight drawn actions, the videos of ``make demo``.

One textured actor acts before a moving textured background, among smaller distractors, under a
shaking camera. Lengths, frame rates and sizes differ from video to video. The classes differ so:

- ``HoverCross`` and ``HoverRing`` move alike and differ in shape: one frame is enough.
- The other six show the same actors and differ only in motion. They are three pairs of time
  reversals, drawn alike otherwise, so no single frame says which of a pair it is.

A network that ignores time therefore gets at most 5 of 8 videos right.
Files and lists: ``pipeline.dataset.generated.videos``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3), RGB
Array = NDArray[np.float64]

RECIPE = "generated videos 1"  # raise the number when a seed starts to mean other videos
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


@dataclass(frozen=True)
class Scene:
    """The scene that the videos of a group share; lengths in pixels."""

    background: Image  # larger than any frame by MARGIN on each side
    actor_color: Array  # (3,)
    distractor_colors: Array  # (NUM_DISTRACTORS, 3)
    shake: float
    shake_turns: Array  # (2,): oscillations in a video, in x and y
    drift: float


def make_scene(random: np.random.Generator) -> Scene:
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


def frames_of(random: np.random.Generator, scene: Scene, class_name: str) -> Iterator[Image]:
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
    """Return the shift of the whole picture, in pixels, (F, 2)."""
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
