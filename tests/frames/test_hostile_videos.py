"""Videos that were made to harm: each ends with a status and a reason, in bounded memory."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.video import probe_video
from pipeline.views.decoder import SPARE_BYTES, DecodeProcess
from pipeline.views.view import Box, View

NUM_VIDEOS = [12, pytest.param(60, marks=pytest.mark.chaos)]
# Small, so that a bomb is cheap to make; the guards are the same at any size.
LIMITS = VideoLimits(
    max_pixels=320 * 240,
    max_frames=60,
    max_duration_seconds=20,
    max_bytes=2_000_000,
    decode_seconds=20,
)
MAX_CHILD_BYTES = 400 * 2**20  # at its peak; 130 MiB of it are libraries
CONTAINERS = {"avi": "mpeg4", "mp4": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., Path]):
    """Return the bytes of a sound video in each container."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        suffix: make_video(folder / f"a.{suffix}", 12, codec=codec).read_bytes()
        for suffix, codec in CONTAINERS.items()
    }


@pytest.fixture(scope="module")
def record(sources, tmp_path_factory, make_record) -> VideoRecord:
    path = tmp_path_factory.mktemp("sound") / "a.avi"
    path.write_bytes(sources["avi"])
    return probe_video(make_record(path), LIMITS)


@pytest.fixture
def decoder() -> Iterator[DecodeProcess]:
    decoder = DecodeProcess()
    yield decoder
    decoder.close()


def peak_bytes(decoder: DecodeProcess) -> int:
    """Return the most that the child has had in memory."""
    assert decoder._child is not None
    status = Path(f"/proc/{decoder._child.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def corrupted(sources: dict[str, bytes], draws: random.Random) -> tuple[str, bytes]:
    """Draw a container and what is done to it: flipped bits, a cut, noise, another's header."""
    suffix, other = draws.sample(sorted(sources), 2)
    content = bytearray(sources[suffix])
    match draws.choice(["flips", "cut", "noise", "header", "no header"]):
        case "flips":
            for _ in range(draws.choice([1, 8, 64, 512])):
                bit = draws.randrange(8 * len(content))
                content[bit // 8] ^= 1 << bit % 8
        case "cut":
            del content[draws.randrange(len(content)) :]
        case "noise":
            start = draws.randrange(len(content))
            length = min(draws.choice([16, 256, 4096]), len(content) - start)
            content[start : start + length] = draws.randbytes(length)
        case "header":
            length = draws.choice([12, 64, 512])
            content[:length] = sources[other][:length]
        case "no header":
            del content[: draws.choice([1, 12, 64, 512])]
    return suffix, bytes(content)


@pytest.mark.parametrize("num_videos", NUM_VIDEOS)
def test_any_corruption_is_one_video_s_fault(
    num_videos, sources, record, decoder, make_record, tmp_path, record_property
):
    draws, refused = random.Random(num_videos), 0
    for number in range(num_videos):
        suffix, content = corrupted(sources, draws)
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(content)
        try:
            probed = decoder.probe(make_record(path), LIMITS)
        except VideoDecodeError as error:
            assert Status(error.status) not in (Status.MISSING, Status.GOOD)  # noqa: PT017
            assert error.reason  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:  # what can be decoded to its end is a video; its clips can be had, too
            box = Box(0, 0, probed.height, probed.width)
            last = View(0, (probed.num_frames - 1,), box, flip=False)
            assert len(decoder.clips(probed, [last], LIMITS, side=32)) == 1
        assert decoder.probe(record, LIMITS) == record
        assert peak_bytes(decoder) < MAX_CHILD_BYTES
    record_property("refused", refused)
    assert refused >= num_videos // 4


def large_pictures(path: Path, make_video: Callable[..., Path]) -> None:
    make_video(path, 1, 4096, 4096)


def large_pictures_behind_a_small_header(path: Path, make_video: Callable[..., Path]) -> None:
    """The container says 64 x 48, its pictures are of 1024 x 768."""
    make_video(path, 3, 1024, 768, codec="mjpeg", pix_fmt="yuvj420p")
    _patch(path, struct.pack("<2i", 1024, 768), struct.pack("<2i", 64, 48))


def too_many_pictures(path: Path, make_video: Callable[..., Path]) -> None:
    make_video(path, LIMITS.max_frames + 1, 16, 16)


def hours(path: Path, make_video: Callable[..., Path]) -> None:
    make_video(path, 2, milliseconds=[0, 3_600_000])


def a_large_file(path: Path, make_video: Callable[..., Path]) -> None:
    make_video(path, 2)
    os.truncate(path, 2**31)


def a_device_without_end(path: Path, make_video: Callable[..., Path]) -> None:
    path.symlink_to("/dev/zero")


def an_index_of_two_thousand_million_samples(path: Path, make_video: Callable[..., Path]) -> None:
    content = bytearray(make_video(path, 12).read_bytes())
    sizes = content.index(b"stsz") + 4
    content[sizes + 8 : sizes + 12] = (2**31 - 1).to_bytes(4, "big")
    path.write_bytes(content)


def _patch(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


OVER, UNREADABLE = Status.OVER_LIMIT, Status.UNREADABLE


@pytest.mark.parametrize(
    ("bomb", "suffix", "status", "reason"),
    [
        (large_pictures, "avi", OVER, "has pictures of 4096 x 4096; the limit is 76800 pixels"),
        (
            large_pictures_behind_a_small_header,
            "avi",
            OVER,
            "has pictures of 1024 x 768; the limit",
        ),
        (too_many_pictures, "avi", OVER, "has over 60 frames"),
        (hours, "mkv", OVER, "lasts 3600 s; the limit is 20 s"),
        (a_large_file, "avi", OVER, "has 2147483648 bytes; the limit is 2000000"),
        (a_device_without_end, "avi", OVER, "needs more memory"),
        (an_index_of_two_thousand_million_samples, "mp4", UNREADABLE, "cannot be decoded"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bombs(bomb, suffix, status, reason, record, decoder, make_video, make_record, tmp_path):
    path = tmp_path / f"bomb.{suffix}"
    bomb(path, make_video)
    with pytest.raises(VideoDecodeError, match=reason) as caught:
        decoder.probe(make_record(path), LIMITS)
    assert caught.value.status == status
    # The process itself was refused memory, and did not grow to the machine's.
    assert peak_bytes(decoder) < MAX_CHILD_BYTES + SPARE_BYTES * (bomb is a_device_without_end)
    child = decoder._child
    assert decoder.probe(record, LIMITS) == record
    assert decoder._child is child
