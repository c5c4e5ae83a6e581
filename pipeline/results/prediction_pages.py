"""Tables, timelines and annotated videos of predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.config.schema import VideoLimits
from pipeline.errors import printable
from pipeline.frames.source import frames_of
from pipeline.results.figures import DPI, SERIES
from pipeline.results.prediction import VideoPrediction
from pipeline.text_table import text_table

MARKERS = "osD^v"
SHOWN_CLASSES = len(MARKERS)
MAX_LEFT_OUT = 10  # lines
BAR_SHARE = 0.12  # height of the bar with the answer, as a share of the picture's
FALLBACK_FRAME_RATE = 25
WHITE, GREEN = (255, 255, 255), (90, 220, 120)  # RGB
FONT = cv2.FONT_HERSHEY_SIMPLEX


def prediction_table(predictions: Sequence[VideoPrediction], count: int) -> str:
    """Lay predictions out as aligned text: a line a video, or a line a window."""
    lines = []
    for prediction in predictions:
        lines.append((printable(prediction.record.uri), _classes(prediction.top(count))))
        for window, span in enumerate(prediction.spans if len(prediction.spans) > 1 else ()):
            start, end = prediction.seconds(span.start), prediction.seconds(span.stop)
            times = f"  {start:7.2f} to {end:7.2f} s"
            lines.append((times, _classes(prediction.top(count, window))))
    return text_table(lines, align="<")


def left_out_table(left_out: Mapping[str, str]) -> str:
    """List files that are not looked at, with reasons; the first few of many."""
    lines = [f"left out: {printable(uri)}: {reason}\n" for uri, reason in left_out.items()]
    more = len(lines) - MAX_LEFT_OUT
    return "".join(lines[:MAX_LEFT_OUT]) + (f"... and {more} more\n" if more > 0 else "")


def write_pages(
    predictions: Sequence[VideoPrediction], folder: Path, limits: VideoLimits, *, annotate: bool
) -> list[Path]:
    """Write a timeline of each video that has several windows, and an annotated video if asked.

    Files are named after the videos; equal names are numbered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, names = [], Counter[str]()
    for prediction in predictions:
        name = printable(prediction.record.sample_id)
        names[name] += 1
        stem = name if names[name] == 1 else f"{name}-{names[name]}"
        if len(prediction.spans) > 1:
            written.append(folder / f"{stem}.png")
            timeline_figure(prediction).savefig(written[-1])
        if annotate:
            written.append(folder / f"{stem}.mp4")
            write_annotated(prediction, written[-1], limits)
    return written


def timeline_figure(prediction: VideoPrediction) -> Figure:
    """Draw the probabilities of the likeliest classes: each window as the span that it saw."""
    figure = Figure(figsize=(9.0, 3.4), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    rate = prediction.record.frame_rate
    spans = np.array([(span.start, span.stop) for span in prediction.spans]) / (rate or 1.0)
    shown = np.argsort(-prediction.probabilities.max(axis=0), kind="stable")[:SHOWN_CLASSES]
    for label, colour, marker in zip(shown, SERIES, MARKERS, strict=False):
        line = prediction.probabilities[:, label]
        axes.hlines(line, *spans.T, color=colour, linewidth=2)
        style: dict[str, Any] = {"marker": marker, "linewidth": 0.6, "color": colour}
        axes.plot(spans.mean(axis=1), line, label=prediction.class_names[label], **style)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("seconds" if rate else "frames")
    axes.set_ylabel("probability")
    axes.set_title(printable(prediction.record.sample_id), loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def write_annotated(prediction: VideoPrediction, path: Path, limits: VideoLimits) -> None:
    """Write the video as H.264 without sound, with the answer below each picture."""
    record = prediction.record
    wanted = range(record.num_frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=round(record.frame_rate) or FALLBACK_FRAME_RATE
        )
        stream.pix_fmt = "yuv420p"
        height, width, bar_height = _sizes(record.height, record.width)
        stream.height, stream.width = height + bar_height, width
        for index, picture in frames_of(record, wanted, limits, verify=False):
            drawn = _annotated(picture, prediction, index)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn, format="rgb24")))
        container.mux(stream.encode())


def _classes(likeliest: Sequence[tuple[str, float]]) -> str:
    return "   ".join(f"{name} {probability:.1%}" for name, probability in likeliest)


def _annotated(
    picture: NDArray[np.uint8], prediction: VideoPrediction, index: int
) -> NDArray[np.uint8]:
    """Put a bar below a picture, with the class and probability at its moment."""
    height, width, bar_height = _sizes(*picture.shape[:2])
    canvas = np.zeros((height + bar_height, width, 3), np.uint8)
    canvas[:height] = picture[:height, :width]
    # The window whose middle is nearest.
    middles = np.array([(span.start + span.stop) / 2 for span in prediction.spans])
    ((name, probability),) = prediction.top(1, int(np.abs(middles - index).argmin()))
    cv2.rectangle(canvas, (0, height), (round(width * probability), height + 3), GREEN, -1)
    text, scale = f"{name} {probability:.0%}", bar_height / 40
    (text_width, _), _ = cv2.getTextSize(text, FONT, scale, 1)
    scale *= min(1.0, (width - 8) / text_width)
    origin = (4, height + bar_height - round(0.3 * bar_height))
    cv2.putText(canvas, text, origin, FONT, scale, WHITE, 1, cv2.LINE_AA)
    return canvas


def _sizes(height: int, width: int) -> tuple[int, int, int]:
    """Return height and width of the picture, and height of its bar. H.264 wants them even."""
    return 2 * (height // 2), 2 * (width // 2), 2 * max(10, round(BAR_SHARE * height / 2))
