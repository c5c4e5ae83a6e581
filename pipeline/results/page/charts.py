"""Charts as inline SVG. Colours are classes of the style sheet, so that they follow dark mode.

Drawn small, in units that a phone shows one to one: text that is scaled down cannot be read.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.pictures import encode_jpeg
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import View

Points = Sequence[tuple[int, float]]

WIDTH = 420
MAX_NAMED_CLASSES = 30


@dataclass(frozen=True)
class Dot:
    """A network on the chart of accuracies."""

    role: str
    label: str
    value: float
    low: float
    high: float


def accuracy_chart(dots: Sequence[Dot], chance: float) -> Markup:
    """Draw top-1 of each network with its interval, on one scale from chance to 1."""
    left, right, top, row = 12, 16, 26, 74
    height = top + row * len(dots) + 34
    low = min([chance, *(dot.low for dot in dots)])
    floor = max(0.0, math.floor(10 * low) / 10)

    def x(value: float) -> float:
        return left + (WIDTH - left - right) * (value - floor) / (1 - floor)

    bottom = top + row * len(dots) - 8
    parts = []
    for tick in np.arange(round(10 * floor), 11, 2 if floor < 0.6 else 1) / 10:
        parts.append(_line(x(tick), top - 8, x(tick), bottom, "grid"))
        parts.append(_text(x(tick), bottom + 18, f"{tick:.0%}", "tick", "middle"))
    if chance >= floor:
        parts.append(_line(x(chance), top - 8, x(chance), bottom, "chance"))
        parts.append(_text(x(chance) + 4, top - 12, "chance", "tick", "start"))
    for number, dot in enumerate(dots):
        y = top + row * number + 42
        parts.append(_text(left, y - 18, dot.label, f"name {dot.role}", "start"))
        parts.append(_text(WIDTH - right, y - 18, f"{dot.value:.1%}", f"value {dot.role}", "end"))
        parts.append(_line(x(dot.low), y, x(dot.high), y, f"interval {dot.role}"))
        parts.append(f'<circle cx="{x(dot.value):.1f}" cy="{y}" r="7" class="dot {dot.role}"/>')
    return _svg(WIDTH, height, parts, "top-1 on val with 95% intervals over videos")


def curves_chart(curves: Mapping[str, Points], *, title: str, percent: bool) -> Markup:
    """Draw a metric from the start to the end of each run, one line a role."""
    drawn = {role: points for role, points in curves.items() if len(points) > 1}
    if not drawn:
        return Markup("")
    left, right, top, bottom, height = 46, 12, 16, 30, 230
    values = [value for points in drawn.values() for _, value in points]
    low, high, ticks = _axis(min(values), max(values))

    def place(role: str, step: int, value: float) -> str:
        share = step / drawn[role][-1][0]
        x = left + (WIDTH - left - right) * share
        y = top + (height - top - bottom) * (high - value) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for tick in ticks:
        y = top + (height - top - bottom) * (high - tick) / (high - low)
        label = f"{tick:.0%}" if percent else f"{tick:.3g}"
        parts += [
            _line(left, y, WIDTH - right, y, "grid"),
            _text(left - 6, y + 4, label, "tick", "end"),
        ]
    for share, word, anchor in ((0, "start", "start"), (0.5, "half", "middle"), (1, "end", "end")):
        x = left + (WIDTH - left - right) * share
        parts.append(_text(x, height - 8, word, "tick", anchor))
    for role, points in drawn.items():
        places = " ".join(place(role, step, value) for step, value in points)
        parts.append(f'<polyline points="{places}" class="curve {role}"/>')
    return _svg(WIDTH, height, parts, title)


def confusion_chart(confusion: NDArray[np.int64], class_names: Sequence[str]) -> Markup:
    """Draw true classes (rows) by predicted ones; right ones and mistakes in two colours."""
    num_classes = len(class_names)
    named = num_classes <= MAX_NAMED_CLASSES
    size = max(4.0, min(34.0, 300 / num_classes))
    margin = 7.0 * max(map(len, class_names)) + 10 if named else 16
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    parts = [
        f'<rect x="{margin}" y="{margin}" width="{size * num_classes}" '
        f'height="{size * num_classes}" class="field"/>'
    ]
    for true, predicted in np.argwhere(confusion):
        x, y = margin + size * predicted, margin + size * true
        kind = "right" if true == predicted else "wrong"
        share = shares[true, predicted]
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{size - 1:.1f}" height="{size - 1:.1f}" '
            f'rx="2" class="cell {kind}" style="opacity:{0.12 + 0.88 * share:.2f}"/>'
        )
        if size >= 20:
            middle = x + size / 2 - 0.5, y + size / 2 + 4
            ink = "count strong" if share > 0.55 else "count"
            parts.append(_text(*middle, str(confusion[true, predicted]), ink, "middle"))
    if named:
        for label, name in enumerate(class_names):
            place = margin + size * label + size / 2 + 4
            parts.append(_text(margin - 6, place, name, "tick", "end"))
            turned = f'transform="translate({place - 1:.1f} {margin - 6:.1f}) rotate(-90)"'
            parts.append(f'<text {turned} class="tick">{Markup.escape(name)}</text>')
    side = margin + size * num_classes + 4
    return _svg(side, side, parts, "confusion matrix: true classes down, predicted ones across")


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Return round limits around values, and three to six ticks."""
    spread = high - low or abs(high) or 1.0
    raw = spread / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return first * step, last * step, [number * step for number in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} class="{kind}">{Markup.escape(text)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> Markup:
    box = f"0 0 {width:.0f} {height:.0f}"
    label = Markup.escape(title)
    style = f"max-width:{1.3 * width:.0f}px"
    head = f'<svg viewBox="{box}" role="img" aria-label="{label}" style="{style}">'
    return Markup(head + "".join(parts) + "</svg>")


# FOLDED results/page/pictures
# Film strips: a few frames of a video side by side, as data URIs that need no other file.


FRAMES_SHOWN = 5
SIDE = 96  # pixels of a frame
QUALITY = 82


def film_strip(decoder: DecodeProcess, record: VideoRecord, view: View, limits: VideoLimits) -> str:
    """Return a view of a video as a JPEG strip in a data URI, time going right.

    Raises:
        VideoDecodeError: if the video cannot be decoded any more.

    """
    (clip,) = decoder.clips(record, [view], limits, side=SIDE, prove=False)
    places = np.linspace(0, len(clip.frames) - 1, FRAMES_SHOWN).round().astype(int)
    strip = np.concatenate(list(clip.frames[places]), axis=1)  # (H, FRAMES_SHOWN * W, C)
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(strip, QUALITY)).decode()}"
