"""The gain of exact skipping: our decoding against PyAV's sequential one and three other readers.

    python -m benchmarks.decode [--rounds 21] > section.md

It draws a scene with texture, moving things and noise at the size of a Kinetics clip, encodes it in
four ways, and asks each reader for the same T frames: the middles of T equal parts. Readers take
turns in one process, with one thread each; the figure is CPU time. A reader whose frames are not
those of the sequential decode is wrong, whatever its time. OpenCV comes with the project;
torchcodec and decord with ``pip install -e .[bench]``, and either may be missing.
"""

from __future__ import annotations

import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from benchmarks.section import options, print_section, say
from benchmarks.timing import paired_ratio, take_turns
from pipeline.config.schema import VideoLimits, ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.video import frames_of, probe_video
from pipeline.views.clip import clips_of
from pipeline.views.view import build_view

Frames = npt.NDArray[np.uint8]  # (T, H, W, 3), RGB
Reader = Callable[[VideoRecord, Sequence[int]], Frames]

WIDTH, HEIGHT, NUM_FRAMES = 340, 256, 300
NUM_WANTED, NUM_VIEWS = (8, 16, 32), 4
GRAIN = 2  # of 255
# Readers convert colours in their own ways, which differ by a level or so; another frame of the
# scene differs by eight and more.
SAME_FRAME = 3.0  # mean difference, in grey levels
LIMITS = VideoLimits()


@dataclass(frozen=True)
class Video:
    """The encoding of a video; ``tag`` is the codec's name in AVI."""

    name: str
    file: str
    codec: str
    options: dict[str, str]
    tag: str | None = None


VIDEOS = (
    Video("H.264, B-frames, MP4", "bframes.mp4", "libx264", {}),
    Video("H.264, no B-frames, MP4", "none.mp4", "libx264", {"bf": "0"}),
    Video(
        "HEVC, MP4", "hevc.mp4", "libx265", {"preset": "veryfast", "x265-params": "log-level=none"}
    ),
    Video("XviD, AVI", "xvid.avi", "mpeg4", {"bf": "1", "g": "250", "qscale": "4"}, "XVID"),
)


# --- videos ---------------------------------------------------------------------------------------


def draw_scene(seed: int = 0) -> Iterator[Frames]:
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


def texture(draws: np.random.Generator, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw noise with contrast at every scale, most of it in brightness, as filmed scenes have."""
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[:, None]
    falloff = 1 / np.maximum(np.hypot(rows, columns), 1 / width) ** 1.6
    shape = (height, width // 2 + 1, 4)
    noise = draws.normal(size=shape) + 1j * draws.normal(size=shape)
    pattern = np.fft.irfft2(noise * falloff, s=(height, width), axes=(0, 1))
    pattern /= pattern.std(axis=(0, 1))
    return np.clip(128 + 50 * (pattern[..., :1] + 0.3 * pattern[..., 1:]), 0, 255).astype(np.uint8)


def write_video(path: Path, video: Video, scene: Iterable[Frames]) -> VideoRecord:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(video.codec, rate=30, options=video.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if video.tag:
            stream.codec_context.codec_tag = video.tag
        for picture in scene:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return probe_video(VideoRecord(path.stem, str(path), label=0, split="val"), LIMITS)


# --- readers --------------------------------------------------------------------------------------


def read_ours(record: VideoRecord, wanted: Sequence[int]) -> Frames:
    return np.stack([frame for _, frame in frames_of(record, wanted, LIMITS, verify=False)])


def read_sequentially(record: VideoRecord, wanted: Sequence[int]) -> Frames:
    with av.open(record.uri) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = zip(range(wanted[-1] + 1), container.decode(video=0), strict=False)
        left, converter = set(wanted), VideoReformatter()  # kept, as in ours: skipping is measured
        found = [frame for index, frame in frames if index in left]
        return np.stack([converter.reformat(f, format="rgb24").to_ndarray() for f in found])


def read_with_opencv(record: VideoRecord, wanted: Sequence[int]) -> Frames:
    capture = cv2.VideoCapture(record.uri, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    left, frames = set(wanted), []
    for index in range(wanted[-1] + 1):
        capture.grab()
        if index in left:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(frames)


def torchcodec_reader() -> Reader:
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def read(record: VideoRecord, wanted: Sequence[int]) -> Frames:
        decoder = VideoDecoder(record.uri, dimension_order="NHWC", num_ffmpeg_threads=1)
        return decoder.get_frames_at(list(wanted)).data.numpy()

    return read


def decord_reader() -> Reader:
    import decord

    def read(record: VideoRecord, wanted: Sequence[int]) -> Frames:
        return decord.VideoReader(record.uri, num_threads=1).get_batch(list(wanted)).asnumpy()

    return read


def load_readers() -> dict[str, Reader | None]:
    """All readers by name; None, with a line on standard error, for one that cannot be loaded."""
    readers: dict[str, Reader | None] = {
        "sequential": read_sequentially,
        "ours": read_ours,
        "OpenCV": read_with_opencv,
    }
    for name, load in (("torchcodec", torchcodec_reader), ("decord", decord_reader)):
        try:
            readers[name] = load()
        except (ImportError, OSError, RuntimeError) as error:
            readers[name] = None
            say(f"{name} cannot be loaded here: {str(error).splitlines()[0]}")
    return readers


# --- measuring ------------------------------------------------------------------------------------


def right(frames: Frames, expected: Frames) -> bool:
    if frames.shape != expected.shape:
        return False
    differences = np.abs(frames.astype(np.int16) - expected).mean(axis=(1, 2, 3))
    return bool((differences < SAME_FRAME).all())


def compare(
    readers: dict[str, Reader | None],
    video: Video,
    record: VideoRecord,
    num_wanted: int,
    rounds: int,
) -> list[object]:
    wanted = [(2 * part + 1) * record.num_frames // (2 * num_wanted) for part in range(num_wanted)]
    expected = read_sequentially(record, wanted)
    if not np.array_equal(read_ours(record, wanted), expected):
        raise SystemExit(f"our frames of {video.name} are wrong")
    loaded = {name: reader for name, reader in readers.items() if reader is not None}
    exact = [name for name, reader in loaded.items() if right(reader(record, wanted), expected)]
    methods = {name: lambda r=reader: r(record, wanted) for name, reader in loaded.items()}
    seconds = take_turns(methods, time.process_time, rounds=rounds)
    cells: list[object] = [video.name, num_wanted]
    cells.append(f"{1000 * median(seconds['sequential']):.0f} ms")
    for name in list(readers)[1:]:
        cell = "-"
        if name in loaded:
            cell = f"{paired_ratio(seconds['sequential'], seconds[name]):.2f}"
            cell += "" if name in exact else " (wrong)"
        cells.append(cell)
    peers = [name for name in exact if name not in ("sequential", "ours")]
    best = min(peers, key=lambda name: median(seconds[name]))
    return [*cells, f"{paired_ratio(seconds[best], seconds['ours']):.2f} ({best})"]


def views_in_one_pass(record: VideoRecord, rounds: int) -> float:
    """Return how much cheaper a view is when ``NUM_VIEWS`` come out of one pass."""
    views = [build_view(ViewsConfig(), record, index, num_frames=8) for index in range(NUM_VIEWS)]
    methods: dict[str, Callable[[], object]] = {
        "each alone": lambda: [clips_of(record, [view], LIMITS, side=224) for view in views],
        "one pass": lambda: clips_of(record, views, LIMITS, side=224),
    }
    return paired_ratio(*take_turns(methods, time.process_time, rounds=rounds).values())


# --- the section ----------------------------------------------------------------------------------


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    readers = load_readers()
    say("drawing the scene")
    scene = list(itertools.islice(draw_scene(), NUM_FRAMES))
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for video in VIDEOS:
            say(video.name)
            record = write_video(Path(folder) / video.file, video, scene)
            rows += [compare(readers, video, record, n, rounds) for n in NUM_WANTED]
            if video is VIDEOS[0]:
                gain = views_in_one_pass(record, rounds)
    peers = list(readers)[2:]
    columns = ("video", "T", "PyAV sequential", "ours", *peers, "ours against the best exact peer")
    print_section(
        "Decoding with gaps (`benchmarks/decode.py`)",
        columns,
        rows,
        f"{NUM_FRAMES} frames of {WIDTH} x {HEIGHT}, drawn; CPU of one thread, how many times "
        f"faster than PyAV's sequential decode, median of rounds in one process "
        f"(load {os.getloadavg()[0]:.0f}, {platform.machine()}, PyAV {av.__version__}).\n"
        f"{NUM_VIEWS} views of 8 frames from one pass cost {gain:.1f} times less a view than each "
        "from its own.",
    )


if __name__ == "__main__":
    main()
