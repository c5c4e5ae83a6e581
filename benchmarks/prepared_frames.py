"""The cost of reading a clip, from an H.264 file and from prepared frames.

    python -m benchmarks.prepared_frames [VIDEO ...]

Prints a Markdown section. The file is of Kinetics' size: 340 x 256, 300 frames, x264 with B-frames.
Its content is drawn so that H.264 takes 3 kB and JPEG (q80) 15 kB a frame, as was measured of two
Kinetics files (2.3 to 4.5, and 14); or it is taken from the named videos. Eight frames are read as
training reads them, unless the row names another library. All methods take turns in one process,
the figure is CPU time, and files are in the page cache.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.decode import (
    HEIGHT,
    LIMITS,
    NUM_FRAMES,
    WIDTH,
    Video,
    draw_scene,
    read_sequentially,
    write_video,
)
from benchmarks.section import options, print_section, say
from benchmarks.timing import take_turns
from pipeline.config.schema import FramesConfig, ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.pictures import decode_jpeg, encode_jpeg, resized
from pipeline.frames.prepared import (
    PreparedVideo,
    batch_uri,
    encode_frames,
    file_name,
    mapped_jpegs,
    prepare_video,
    split_batch_uri,
)
from pipeline.frames.source import frames_of
from pipeline.storage.sealed.store import Seal, publish, write_seal
from pipeline.views.view import build_view

QUALITIES = (80, 90, 95)
GOAL = 40
NUM_CANDIDATES = 32
# Of Kinetics' size: with this scene H.264 takes 3 kB a frame.
KINETICS = Video("", "kinetics.mp4", "libx264", {"preset": "medium", "crf": "16", "bf": "3"})


@dataclass(frozen=True)
class Method:
    """A way to get eight frames; sizes and encoding where they apply."""

    name: str
    read: Callable[[], Any]
    num_bytes: int
    encode: Callable[[], Any] | None = None  # the 32 candidates, ready in memory
    psnr: float = float("inf")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = filmed(arguments.videos) if arguments.videos else draw_scene()
        path = folder / "kinetics.mp4"
        record = write_video(path, KINETICS, itertools.islice(pictures, NUM_FRAMES))
        say(f"{path.name}: {record.num_frames} frames, {record.num_bytes / 1e3:.0f} kB")
        methods = list(methods_of(record, folder))
        readers = {method.name: method.read for method in methods}
        encoders = {method.name: method.encode for method in methods if method.encode is not None}
        costs = take_turns(readers, time.process_time, rounds=arguments.rounds)
        report(record, methods, costs, take_turns(encoders, time.process_time, rounds=3))


def methods_of(record: VideoRecord, folder: Path) -> Iterator[Method]:
    wanted = build_view(ViewsConfig(), record, 0, num_frames=8).frame_indices
    yield Method("the H.264 file, ours, which skips", reader(record, wanted), record.num_bytes)
    sequential = partial(read_sequentially, record, wanted)
    yield Method("every picture up to the last, PyAV", sequential, record.num_bytes)
    for quality in QUALITIES:
        prepared = prepare_video(record, LIMITS, frames=FramesConfig(quality=quality))
        (stored,) = sealed_file([prepared], folder / f"q{quality}")
        pictures = [frame for _, frame in frames_of(record, prepared.frame_indices, LIMITS)]
        yield Method(
            f"prepared, q{quality}, OpenCV",
            reader(stored, build_view(ViewsConfig(), stored, 0, num_frames=8).frame_indices),
            stored.num_bytes,
            encode=lambda pictures=pictures, q=quality: [encode_jpeg(p, q) for p in pictures],
            psnr=psnr(
                pictures, [frame for _, frame in frames_of(stored, range(NUM_CANDIDATES), LIMITS)]
            ),
        )
        # Not a dependency: pip install it to measure it.
        if quality == FramesConfig().quality and find_spec("simplejpeg"):
            yield by_simplejpeg(stored, pictures, quality)


def by_simplejpeg(stored: VideoRecord, pictures: list[Any], quality: int) -> Method:
    """The same JPEGs by another decoder, and the same pictures by its encoder."""
    import simplejpeg

    def encode() -> list[bytes]:
        return [simplejpeg.encode_jpeg(picture, quality, "RGB", "420") for picture in pictures]

    def read() -> list[Any]:
        _, jpegs = mapped_jpegs(Path(file_uri), batch)
        return [simplejpeg.decode_jpeg(jpegs[index], "RGB") for index in wanted]

    wanted = build_view(ViewsConfig(), stored, 0, num_frames=8).frame_indices
    (file_uri, batch), theirs = split_batch_uri(stored.uri), encode()
    ours = [decode_jpeg(jpeg, stored.height, stored.width) for jpeg in theirs]
    size = sum(map(len, theirs))
    return Method("the same, simplejpeg", read, size, encode=encode, psnr=psnr(pictures, ours))


def sealed_file(videos: Sequence[PreparedVideo], root: Path) -> list[VideoRecord]:
    """Seal one file of prepared frames at ``root``, and return the records that read it."""
    entry = publish(str(root), file_name(0), encode_frames(videos, ""))
    write_seal(str(root), Seal("", (entry,), {}))
    uri = str(root / entry.name)
    return [replace(v.record, uri=batch_uri(uri, batch)) for batch, v in enumerate(videos)]


def reader(record: VideoRecord, wanted: Iterable[int]) -> Callable[[], Any]:
    return lambda: list(frames_of(record, tuple(wanted), LIMITS, verify=False))


def report(
    record: VideoRecord,
    methods: Sequence[Method],
    costs: Mapping[str, list[float]],
    encoding: Mapping[str, list[float]],
) -> None:
    best = {name: min(seconds) for name, seconds in costs.items()}
    first, second, *_ = (method.name for method in methods)
    rows = []
    for method in methods:
        ratio = best[first] / best[method.name]
        own = encoding.get(method.name)  # none of those that encode nothing
        rows.append(
            (
                method.name,
                f"{method.num_bytes / 1e3:.0f}",
                f"{method.num_bytes / record.num_bytes:.2f}",
                f"{1e3 * best[method.name]:.2f}",
                f"{ratio:.0f}x" if ratio >= 1 else f"{ratio:.2f}x",
                None if own is None else f"{method.psnr:.1f}",
                None if own is None else f"{1e3 * min(own) / NUM_CANDIDATES:.2f}",
            )
        )
    ours = next(m for m in methods if m.name == f"prepared, q{FramesConfig().quality}, OpenCV")
    print_section(
        "Reading eight frames (`benchmarks/prepared_frames.py`)",
        ("frames from", "kB a video", "of the file", "CPU ms", "cheaper", "PSNR dB", "encode, ms"),
        rows,
        f"Goal: at least {GOAL} times cheaper and no larger; found "
        f"{best[first] / best[ours.name]:.0f} times by our own decode, "
        f"{best[second] / best[ours.name]:.0f} times by PyAV's of every picture up to the last "
        f"that is wanted, and {ours.num_bytes / record.num_bytes:.2f} of the file, with the "
        f"default of q{FramesConfig().quality}. PSNR is against the decoded file; encoding is a "
        "frame's, and paid once.",
    )


def psnr(truth: list[Any], found: list[Any]) -> float:
    error = np.mean(
        [np.mean((t.astype(float) - f) ** 2) for t, f in zip(truth, found, strict=True)]
    )
    return float(10 * np.log10(255**2 / error))


# --- the file -----------------------------------------------------------------------------------


def filmed(paths: list[Path]) -> Iterator[Any]:
    for path in itertools.cycle(paths):
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield resized(frame.to_ndarray(format="rgb24"), HEIGHT, WIDTH)


if __name__ == "__main__":
    main()
