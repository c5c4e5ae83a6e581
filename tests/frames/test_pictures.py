"""Pictures as the ffmpeg command line shows them: turned, mirrored, of one size, of one colour."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config.schema import VideoLimits, ViewsConfig
from pipeline.frames.pictures import AS_THE_FILE_SAYS, Upright
from pipeline.frames.video import frames_of, probe_video
from pipeline.views.clip import clips_of
from pipeline.views.view import build_view

LIMITS = VideoLimits()
ONE = 1 << 16
# (a, b, c, d) of the display matrix, what becomes of the stored picture, and the manifest's turn.
# Compared with ffmpeg 5.1's command line when this was written: equal to the bit, all eight.
ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), lambda p: p, 0),
    "a quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1), 270),
    "half a turn": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2), 180),
    "a quarter back": ((0, -1, 1, 0), lambda p: np.rot90(p), 90),
    "mirrored, left to right": ((-1, 0, 0, 1), lambda p: p[:, ::-1], 180),
    "mirrored, top to bottom": ((1, 0, 0, -1), lambda p: p[::-1], 0),
    "mirrored, rows for columns": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2), 270),
    "and half a turn": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).transpose(1, 0, 2), 90),
    "a little oblique": ((0.1, 0.99, -0.99, 0.1), lambda p: np.rot90(p, -1), 270),
}


def write_matrix(path: Path, matrix: tuple[float, float, float, float]) -> None:
    """Write a display matrix into an mp4's track header (ISO/IEC 14496-12)."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(value * ONE) for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("way", ORIENTATIONS)
def test_all_orientations(way, tmp_path, make_video, make_record):
    matrix, turned, rotation = ORIENTATIONS[way]
    path = make_video(tmp_path / "a.mp4", 6, codec="libx264")
    stored = dict(frames_of(probe_video(make_record(path), LIMITS), range(6), LIMITS))
    write_matrix(path, matrix)
    record = probe_video(make_record(path), LIMITS)
    assert (record.height, record.width) == turned(stored[0]).shape[:2]
    assert record.rotation == rotation
    for index, frame in frames_of(record, range(6), LIMITS):
        assert np.array_equal(frame, turned(stored[index]))


def test_the_orientation_of_a_jpeg(tmp_path, make_video, make_record):
    """In EXIF, for which PyAV's list of side data has no name: the turn is still known."""
    tiff = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x112, 3, 1, 6, 0, 0)
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    plain, path = (
        make_video(tmp_path / "a.mkv", 4, codec="mjpeg", pix_fmt="yuvj420p"),
        tmp_path / "b.mkv",
    )
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for old in source.demux(stream):
            if old.size:
                new = av.Packet(bytes(old)[:2] + exif + bytes(old)[2:])
                new.pts, new.dts, new.time_base, new.stream = old.pts, old.dts, old.time_base, copy
                target.mux(new)
    stored, turned = (probe_video(make_record(p), LIMITS) for p in (plain, path))
    assert (turned.width, turned.height) == (stored.height, stored.width)
    (_, expected), (_, found) = (next(frames_of(r, [2], LIMITS)) for r in (stored, turned))
    assert np.array_equal(found, np.rot90(expected, -1))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.fixture
def large_then_small(tmp_path, draw_picture):
    """Ten pictures of 64 x 48, then ten of 32 x 24, in one stream."""
    path = tmp_path / "sizes.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        small = av.CodecContext.create("mjpeg", "w")
        for context, width, height in ((stream, 64, 48), (small, 32, 24)):
            context.width, context.height, context.pix_fmt = width, height, "yuvj420p"
        small.time_base = Fraction(1, 25)
        for number in range(20):
            context = stream if number < 10 else small
            picture = draw_picture(number, context.width, context.height)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            for packet in context.encode(frame):
                packet.stream = stream
                container.mux(packet)
    return path


def test_pictures_are_scaled_to_the_first_size(
    large_then_small, make_record, read_number, draw_picture
):
    record = probe_video(make_record(large_then_small), LIMITS)
    assert (record.num_frames, record.width, record.height) == (20, 64, 48)
    assert (record.notes, record.skippable) == ("size_changes", False)
    for index, frame in frames_of(record, range(20), LIMITS):
        assert frame.shape == (48, 64, 3)
        assert read_number(frame) == index
        assert np.abs(frame.astype(int) - draw_picture(index, 64, 48)).mean() < 12


def test_no_view_of_changing_sizes_fails(large_then_small, make_record):
    record = probe_video(make_record(large_then_small), LIMITS)
    views = [build_view(ViewsConfig(num_views=100), record, i, num_frames=8) for i in range(100)]
    clips = clips_of(record, views, LIMITS, side=32)
    assert all(clip.frames.std() > 1 for clip in clips)


# --- colours --------------------------------------------------------------------------------------


def frame_of(planes, layout: str, bits: int) -> av.VideoFrame:
    """Build a frame of so many bits from planes of 8."""
    height, width = planes[0].shape
    deep = bits > 8
    frame = av.VideoFrame(width, height, f"yuv{layout}p{bits}le" if deep else f"yuv{layout}p")
    for plane, content in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8).view("<u2" if deep else "u1")
        rows[:, : content.shape[1]] = content.astype(rows.dtype) << (bits - 8)
        plane.update(rows.tobytes())
    return frame


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("layout", "down", "across"), [("420", 2, 2), ("422", 1, 2), ("444", 1, 1)]
)
@pytest.mark.parametrize(("width", "height"), [(96, 64), (66, 51), (67, 50)])
def test_deep_pictures_take_the_chroma_rule_of_8_bits(bits, layout, down, across, width, height):
    draws = np.random.default_rng(0)
    sizes = [(height, width), *2 * [(-(-height // down), -(-width // across))]]
    planes = [draws.integers(16, 236, size).astype(np.uint8) for size in sizes]
    shallow, deep = (
        Upright(width, height, AS_THE_FILE_SAYS)(frame_of(planes, layout, b)) for b in (8, bits)
    )
    assert np.array_equal(shallow, deep)


def test_8_bits_repeat_chroma(draw_picture):
    """The rule itself: no colour flows into the next block of 2 x 2."""
    luma, blue = np.full((8, 8), 128, np.uint8), np.full((4, 4), 128, np.uint8)
    red = blue.copy()
    red[:2] = 240
    picture = Upright(8, 8, AS_THE_FILE_SAYS)(frame_of([luma, blue, red], "420", 8))
    assert len(np.unique(picture[:4].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(picture[4:].reshape(-1, 3), axis=0)) == 1
