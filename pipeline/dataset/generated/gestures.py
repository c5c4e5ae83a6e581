"""Ten drawn gestures of a hand, to pre-train a teacher of filmed ones.

An index finger on a forearm traces a figure in front of a textured room, as filmed by a camera on
the wearer's head. Nothing looks real. What carries over to footage is the motion: figures are
traced sloppily, at uneven speed, tilted and stretched, with pauses at both ends, by different hands
in different rooms. Classes and their order are those of EgoGestAR in the project's real data set,
so the trained head fits, too (``teacher.init_head: keep``).

Left and Right, and Up and Down, are time reversals of each other; no single frame tells them apart.
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

CIRCLE = "CircleCC"  # the one figure without corners: counter-clockwise, from anywhere
_STAR = [(-math.sin(0.4 * math.pi * k), -math.cos(0.4 * math.pi * k)) for k in (2, 0, 3, 1, 4, 2)]
CORNERS = {  # of the figures, in the order of tracing; y points down
    "Carret": [(-0.9, 0.8), (0.0, -0.9), (0.9, 0.8)],
    "Del": [(-0.8, -0.9), (0.8, 0.9), (-0.8, 0.9), (0.8, -0.9)],
    "Down": [(0.0, -1.0), (0.0, 1.0)],
    "Left": [(1.0, 0.0), (-1.0, 0.0)],
    "Right": [(-1.0, 0.0), (1.0, 0.0)],
    "Square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9), (-0.9, -0.9)],
    "Star": _STAR,
    "Tick": [(-0.9, 0.0), (-0.2, 0.9), (0.9, -0.9)],
    "Up": [(0.0, 1.0), (0.0, -1.0)],
}
CLASSES = ("Carret", CIRCLE, "Del", "Down", "Left", "Right", "Square", "Star", "Tick", "Up")
RECIPE = "generated gestures 1"  # raise the number when a seed starts to mean other videos
FRAME_SIZE = np.array([96, 72])  # (W, H)
UNIT = math.sqrt(96 * 72)  # the frame's mean side: hands are measured in it
ROOM_SIZE = 2 * FRAME_SIZE  # a video sees a part of the room
FRAME_RATES = (10, 15, 25, 30)
MIN_FRAMES, MAX_FRAMES = 24, 40
NOISE_SHAPE = (24, 32, 3)  # finer noise would not survive the encoder and a small clip


@dataclass(frozen=True)
class Scene:
    """The room and the wearer that the videos of a group share."""

    difficulty: float  # 0.2 to 1: contrast and clutter of the room, shake, flicker
    room: Image
    skin: Array  # (3,)
    sleeve: Array | None  # (3,); None: a bare arm
    hand_size: float


def make_scene(random: np.random.Generator) -> Scene:
    difficulty = random.uniform(0.2, 1)
    room = _draw_room(random, difficulty)
    red = random.uniform(0.6, 1)
    green = red * random.uniform(0.6, 0.85)
    blue = green * random.uniform(0.65, 1)
    return Scene(
        difficulty=difficulty,
        room=room,
        skin=np.array([red, green, blue]) * random.uniform(90, 255),
        sleeve=random.uniform(0, 255, 3) if random.uniform() < 0.4 else None,
        hand_size=random.uniform(0.7, 1.35),
    )


def _draw_room(random: np.random.Generator, difficulty: float) -> Image:
    """Draw coloured noise of random grains, then boxes and beams."""
    color = np.clip(random.uniform(20, 235) + random.normal(0, 30, 3), 5, 250)
    width, height = ROOM_SIZE.tolist()
    room = np.tile(color, (height, width, 1))
    for _ in range(random.integers(1, 4)):
        rows, columns = 2 * random.integers(2, 20, 2)
        grey = random.normal(0, 1, (rows, columns, 1)) * random.uniform(0.5, 1, 3)
        noise = grey + random.normal(0, 0.3, (rows, columns, 3))
        blend = int(random.choice([cv2.INTER_LINEAR, cv2.INTER_NEAREST]))  # wall or tiles
        amplitude = random.uniform(3, 35) * difficulty
        room += amplitude * cv2.resize(noise, (width, height), interpolation=blend)
    canvas = np.clip(room, 0, 255).astype(np.uint8)
    for _ in range(int(random.integers(0, 18) * difficulty)):
        fill = np.clip(random.uniform(0, 255) + random.normal(0, 25, 3), 0, 255).tolist()
        corner, other = (random.uniform(-0.15, 1, 2) * ROOM_SIZE for _ in range(2))
        if random.uniform() < 0.6:
            opposite = corner + random.uniform(0.06, 1, 2) * FRAME_SIZE
            cv2.rectangle(canvas, _pixel(corner), _pixel(opposite), fill, -1)
        else:
            cv2.line(canvas, _pixel(corner), _pixel(other), fill, int(random.integers(1, 12)))
    return canvas


def frames_of(random: np.random.Generator, scene: Scene, class_name: str) -> Iterator[Image]:
    """Yield the frames of one video, in order of presentation."""
    num_frames = int(random.integers(MIN_FRAMES, MAX_FRAMES + 1))
    width, height = FRAME_SIZE.tolist()
    centre = random.uniform([0.3, 0.3], [0.62, 0.55]) * FRAME_SIZE
    trace = _trace(random, class_name, num_frames) * random.uniform(0.14, 0.32) * FRAME_SIZE
    elbow = random.uniform([0.6, 1.25], [1.3, 1.9]) * FRAME_SIZE
    elbows = elbow + random.uniform(0.2, 0.8) * trace
    lean = random.normal(-0.1, 0.25)
    corners = _camera(random, scene.difficulty, num_frames)
    flicker = random.uniform(0, 4) * scene.difficulty
    grain = random.uniform(0, 6)
    for frame in range(num_frames):
        left, top = corners[frame]
        canvas = scene.room[top : top + height, left : left + width].copy()
        _draw_hand(canvas, scene, centre + trace[frame], elbows[frame], lean)
        noise = grain * random.standard_normal(NOISE_SHAPE, np.float32)
        noise += flicker * random.standard_normal()
        light = cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST)
        yield cast("Image", cv2.add(canvas, light, dtype=cv2.CV_8U))


def _trace(random: np.random.Generator, class_name: str, num_frames: int) -> Array:
    """Return where the finger tip is by frame, (F, 2); the figure fills [-1, 1] x [-1, 1]."""
    is_circle = class_name == CIRCLE
    if is_circle:
        angles = random.uniform(-1.9, 0.4) - np.linspace(0, 2 * math.pi, 24)
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        points = np.array(CORNERS[class_name])
        points = points + random.normal(0, 0.09, points.shape)
    strokes = np.diff(points, axis=0)
    durations = np.linalg.norm(strokes, axis=1)
    if not is_circle:
        durations = durations ** random.uniform(0.5, 1) * random.uniform(0.75, 1.3, len(strokes))
    starts = np.concatenate([[0], np.cumsum(durations)]) / durations.sum()
    begin, end = random.uniform(0, 0.25), 1 - random.uniform(0, 0.25)  # still before and after
    times = np.clip(((np.arange(num_frames) + 0.5) / num_frames - begin) / (end - begin), 0, 1)
    stroke = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, len(strokes) - 1)
    done = (times - starts[stroke]) / (starts[stroke + 1] - starts[stroke])
    if not is_circle:  # strokes start and end slowly, more or less
        done += random.uniform(0, 1) * (3 * done**2 - 2 * done**3 - done)
    tilt = random.normal(0, 0.12)
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    figure = (points[stroke] + strokes[stroke] * done[:, None]) @ turn
    stretched = figure * np.exp(random.normal(0, 0.15, 2))
    return cast("Array", stretched + _walk(random, num_frames, 0.06))


def _camera(random: np.random.Generator, difficulty: float, num_frames: int) -> NDArray[np.int64]:
    """Return the corner of the room that is the frame's upper left one, by frame, (F, 2)."""
    start = random.uniform(0, 1, 2) * (ROOM_SIZE - FRAME_SIZE)
    shake = random.choice([0, 0, 0.016, 0.048]) * difficulty * UNIT
    path = start + _walk(random, num_frames, shake)
    corners = np.clip(path, 0, ROOM_SIZE - FRAME_SIZE).astype(np.int64)
    return cast("NDArray[np.int64]", corners)


def _walk(random: np.random.Generator, num_frames: int, spread: float) -> Array:
    """Return a random walk in the plane, (F, 2), whose end deviates by ``spread``."""
    steps = random.normal(0, spread / math.sqrt(num_frames), (num_frames, 2))
    return np.cumsum(steps, axis=0)


def _draw_hand(canvas: Image, scene: Scene, tip: Array, elbow: Array, lean: float) -> None:
    """Draw a forearm, a palm and a finger that points along ``lean``, clockwise from upright."""
    size = UNIT * scene.hand_size
    finger, finger_width = 0.17 * size, 0.035 * size  # widths from the middle line
    palm, palm_width = 0.13 * size, 0.075 * size
    ahead = np.array([math.sin(lean), -math.cos(lean)])
    aside = np.array([-ahead[1], ahead[0]])
    knuckle = tip - ahead * finger
    wrist = knuckle - ahead * palm
    arm = elbow - wrist
    across = np.array([-arm[1], arm[0]]) / np.linalg.norm(arm) * palm_width
    _draw_limb(canvas, wrist, across * 0.62, elbow, across * 1.3, scene.skin * 0.92)
    if scene.sleeve is not None:
        _draw_limb(canvas, wrist + 0.35 * arm, across, elbow, across * 1.6, scene.sleeve)
    skin, shade, light = ((scene.skin * factor).tolist() for factor in (1, 0.75, 1.04))
    axes = (max(1, int(palm_width)), max(1, int(0.72 * palm)))
    middle = _pixel((knuckle + wrist) / 2)
    cv2.ellipse(canvas, middle, axes, math.degrees(lean), 0, 360, skin, -1)
    cv2.line(canvas, _pixel(knuckle), _pixel(tip), light, max(1, int(2 * finger_width)))
    edge = aside * finger_width
    thin = max(1, int(finger_width / 2))
    cv2.line(canvas, _pixel(knuckle + edge), _pixel(wrist + edge), shade, thin)


def _draw_limb(
    canvas: Image, start: Array, start_width: Array, end: Array, end_width: Array, color: Array
) -> None:
    corners = [start + start_width, start - start_width, end - end_width, end + end_width]
    cv2.fillConvexPoly(canvas, np.array(corners).astype(np.int32), color.tolist())


def _pixel(point: NDArray[Any]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
