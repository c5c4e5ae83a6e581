"""What does it cost to read a clip, from an H.264 file and from prepared frames?

    python -m benchmarks.prepared_frames [VIDEO ...]

Prints a Markdown section. The file is of Kinetics' size: 340 x 256, 300 frames, x264 with B-frames.
Its content is drawn so that H.264 takes 3 kB and JPEG (q80) 15 kB a frame, as was measured of two
Kinetics files (2.3 to 4.5, and 14); or it is taken from the videos that are named. Eight frames are
read as training reads them, through the one door, or as it is named; all methods take turns in
one process, the figure is CPU time, and files are in the page cache.
"""

from __future__ import annotations

import argparse
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from benchmarks.decode import read_sequentially
from benchmarks.section import say
from pipeline.config.schema import FramesConfig, VideoLimits, ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.candidates import PreparedVideo, prepare_video
from pipeline.frames.pictures import decode_jpeg, encode_jpeg, resized
from pipeline.frames.source import frames_of
from pipeline.frames.store_files import Location, encode_frames, mapped_jpegs
from pipeline.frames.video import probe_video
from pipeline.views.view import build_view

WIDTH, HEIGHT, NUM_FRAMES = 340, 256, 300
LIMITS = VideoLimits()
QUALITIES = (80, 90, 95)
GOAL = 40
GRAIN = 2  # of 255
X264 = {"preset": "medium", "crf": "16", "bf": "3"}


@dataclass(frozen=True)
class Method:
    """A way to get eight frames; sizes and encoding where they apply."""

    name: str
    read: Callable[[], Any]
    num_bytes: int
    encode: Callable[[], Any] | None = None  # the 32 candidates, ready in memory
    psnr: float = float("inf")


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = filmed(arguments.videos) if arguments.videos else drawn()
        path = write_video(folder / "kinetics.mp4", itertools.islice(pictures, NUM_FRAMES))
        record = probe_video(VideoRecord("v", str(path), 0, "train"), LIMITS)
        say(f"{path.name}: {record.num_frames} frames, {record.num_bytes / 1e3:.0f} kB")
        methods = list(methods_of(record, folder))
        costs = measure([method.read for method in methods], arguments.rounds)
        encoding = {
            method.name: min(measure([method.encode], 3)[0]) / 32
            for method in methods
            if method.encode is not None
        }
        report(record, methods, costs, encoding)


def methods_of(record: VideoRecord, folder: Path) -> Iterator[Method]:
    wanted = build_view(ViewsConfig(), record, 0, num_frames=8).frame_indices
    yield Method("the H.264 file, ours, which skips", reader(record, wanted), record.num_bytes)
    sequential = partial(read_sequentially, record, wanted)
    yield Method("every picture up to the last, PyAV", sequential, record.num_bytes)
    for quality in QUALITIES:
        prepared = prepare_video(record, LIMITS, frames=FramesConfig(quality=quality))
        stored = store(prepared, folder / f"q{quality}.arrow")
        pictures = [frame for _, frame in frames_of(record, prepared.frame_indices, LIMITS)]
        yield Method(
            f"prepared, q{quality}, OpenCV",
            reader(stored, build_view(ViewsConfig(), stored, 0, num_frames=8).frame_indices),
            stored.num_bytes,
            encode=lambda pictures=pictures, q=quality: [encode_jpeg(p, q) for p in pictures],
            psnr=psnr(pictures, [frame for _, frame in frames_of(stored, range(32), LIMITS)]),
        )
        if quality == FramesConfig().quality:
            yield from other_libraries(stored, pictures, quality)


def other_libraries(stored: VideoRecord, pictures: list[Any], quality: int) -> Iterator[Method]:
    """The same JPEGs by other decoders, and the same pictures by other encoders."""
    libraries: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bytes]]] = {
        "Pillow": (pillow_decode, lambda picture: pillow_encode(picture, quality)),
        "PyAV mjpeg": (MotionJpeg().decode, MotionJpeg().encode),
    }
    if find_spec("simplejpeg"):  # not a dependency: pip install it to measure it
        import simplejpeg

        libraries["simplejpeg"] = (
            lambda content: simplejpeg.decode_jpeg(content, "RGB"),
            lambda picture: simplejpeg.encode_jpeg(picture, quality, "RGB", "420"),
        )
    wanted = build_view(ViewsConfig(), stored, 0, num_frames=8).frame_indices
    place = Location.parse(stored.uri)
    for name, (decode, encode) in libraries.items():

        def read(decode: Callable[[Any], Any] = decode) -> list[Any]:
            _, jpegs = mapped_jpegs(Path(place.file_uri), place.batch)
            return [decode(jpegs[index]) for index in wanted]

        theirs = [encode(picture) for picture in pictures]
        ours = [decode_jpeg(jpeg, stored.height, stored.width) for jpeg in theirs]
        yield Method(
            f"the same, {name}",
            read,
            sum(map(len, theirs)),
            encode=lambda encode=encode: [encode(picture) for picture in pictures],
            psnr=psnr(pictures, ours),
        )


def pillow_decode(content: memoryview) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


def pillow_encode(picture: Any, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class MotionJpeg:
    """libav's codec; it has a quantiser scale instead of a quality, and 3 is near q90."""

    def __init__(self) -> None:
        self._decoder = av.CodecContext.create("mjpeg", "r")
        self._encoder = av.CodecContext.create("mjpeg", "w")
        self._encoder.width, self._encoder.height = WIDTH, HEIGHT
        self._encoder.pix_fmt, self._encoder.time_base = "yuvj420p", Fraction(1, 25)
        self._encoder.options = {"qmin": "3", "qmax": "3"}

    def decode(self, content: memoryview) -> Any:
        return self._decoder.decode(av.Packet(bytes(content)))[0].to_ndarray(format="rgb24")

    def encode(self, picture: Any) -> bytes:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))


def store(prepared: PreparedVideo, path: Path) -> VideoRecord:
    """Write a file of one video, and return the record that reads it."""
    path.write_bytes(encode_frames([prepared], ""))
    return replace(prepared.record, uri=Location(str(path), 0).uri)


def reader(record: VideoRecord, wanted: Iterable[int]) -> Callable[[], Any]:
    return lambda: list(frames_of(record, tuple(wanted), LIMITS, verify=False))


def measure(methods: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Take turns; return the CPU seconds of every round but the first, for each method."""
    costs: list[list[float]] = [[] for _ in methods]
    for number in range(rounds + 1):
        for method, spent in zip(methods, costs, strict=True):
            started = time.process_time()
            method()
            if number:
                spent.append(time.process_time() - started)
    return costs


def report(
    record: VideoRecord, methods: list[Method], costs: list[list[float]], encoding: dict[str, float]
) -> None:
    best = [min(spent) for spent in costs]
    print("## Reading eight frames (`benchmarks/prepared_frames.py`)\n")
    print("| frames from | kB a video | of the file | CPU ms | cheaper | PSNR dB | encode, ms |")
    print("|---|---|---|---|---|---|---|")
    for method, seconds in zip(methods, best, strict=True):
        lossless = method.encode is None
        print(
            f"| {method.name} | {method.num_bytes / 1e3:.0f} "
            f"| {method.num_bytes / record.num_bytes:.2f} | {1e3 * seconds:.2f} "
            f"| {ratio_of(best[0] / seconds)}x | {'-' if lossless else f'{method.psnr:.1f}'} "
            f"| {'-' if lossless else f'{1e3 * encoding[method.name]:.2f}'} |"
        )
    ours = f"prepared, q{FramesConfig().quality}, OpenCV"
    place = [method.name for method in methods].index(ours)
    ratio, sequential = best[0] / best[place], best[1] / best[place]
    size = methods[place].num_bytes / record.num_bytes
    print(
        f"\nGoal: at least {GOAL} times cheaper and no larger; found {ratio:.0f} times by our own "
        f"decode, {sequential:.0f} times by PyAV's of every picture up to the last that is wanted, "
        f"and {size:.2f} of the file, with the default of q{FramesConfig().quality}. PSNR is "
        "against the decoded file; encoding is a frame's, and paid once."
    )


def ratio_of(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 1 else f"{ratio:.2f}"


def psnr(truth: list[Any], found: list[Any]) -> float:
    error = np.mean(
        [np.mean((t.astype(float) - f) ** 2) for t, f in zip(truth, found, strict=True)]
    )
    return float(10 * np.log10(255**2 / error))


# --- the file -----------------------------------------------------------------------------------


def write_video(path: Path, pictures: Iterable[Any]) -> Path:
    """Encode pictures of 340 x 256 by x264, with B-frames."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options=X264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return path


def filmed(paths: list[Path]) -> Iterator[Any]:
    """Yield the frames of videos, shrunk, over and over."""
    for path in itertools.cycle(paths):
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield resized(frame.to_ndarray(format="rgb24"), HEIGHT, WIDTH)


def drawn(seed: int = 0) -> Iterator[Any]:
    """Yield a shaky pan over a textured scene, with things that move in it, and with grain."""
    draws = np.random.default_rng(seed)
    scene, thing = texture(draws, 512, 680), texture(draws, 96, 96)
    for number in itertools.count():
        angle = number / 40
        top = 128 + 90 * np.sin(angle) + 3 * np.sin(7 * angle)
        left = 170 + 120 * np.cos(0.7 * angle) + 3 * np.cos(9 * angle)
        pan = np.array([[1, 0, -left], [0, 1, -top]])
        picture = cv2.warpAffine(scene, pan, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
        for place in range(3):
            row = int(80 + 70 * np.sin(2 * angle + 2 * place))
            column = int(120 + 110 * np.cos(1.3 * angle + place))
            picture[row : row + 96, column : column + 96] = np.roll(thing, 5 * number, axis=1)
        grain = draws.integers(-GRAIN, GRAIN + 1, picture.shape, dtype=np.int16)
        yield np.clip(picture + grain, 0, 255).astype(np.uint8)


def texture(draws: np.random.Generator, height: int, width: int) -> Any:
    """Draw noise with contrast at every scale, most of it in brightness, as filmed scenes have."""
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[:, None]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / width) ** 1.6
    shape = (height, width // 2 + 1, 4)
    noise = draws.normal(size=shape) + 1j * draws.normal(size=shape)
    pattern = np.fft.irfft2(noise * falloff, s=(height, width), axes=(0, 1))
    pattern /= pattern.std(axis=(0, 1))
    return np.clip(128 + 50 * (pattern[..., :1] + 0.3 * pattern[..., 1:]), 0, 255).astype(np.uint8)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
