"""Which stream of a file is meant, and why a file that is no video is none."""

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from pipeline.config.schema import VideoLimits
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.video import frames_of, probe_video

LIMITS = VideoLimits()
DEFAULT, COVER, NONE = Disposition.default, Disposition.attached_pic, Disposition(0)


def refusal(record) -> VideoDecodeError:
    with pytest.raises(VideoDecodeError) as caught:
        probe_video(record, LIMITS)
    return caught.value


def write_streams(path: Path, streams: list[tuple[int, Disposition]]) -> Path:
    """Write streams of as many rows of pictures as said, 16 of them a second."""
    with av.open(str(path), "w") as container:
        written = []
        for height, disposition in streams:
            stream = container.add_stream("mjpeg", rate=16)
            stream.width, stream.height, stream.pix_fmt = 2 * height, height, "yuvj420p"
            stream.disposition = disposition
            written.append(stream)
        for stream in written:
            cover = bool(stream.disposition & COVER)
            for _ in range(1 if cover else 16):
                picture = np.full((stream.height, stream.width, 3), stream.height, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "streams", "chosen"),
    [
        ("mov", [(24, NONE), (48, DEFAULT)], 48),
        ("mov", [(48, NONE), (24, DEFAULT)], 24),
        ("mov", [(24, DEFAULT), (48, DEFAULT)], 48),
        ("mkv", [(24, NONE), (96, NONE), (48, NONE)], 96),
        ("avi", [(24, NONE), (48, NONE)], 48),
        ("mp4", [(96, COVER), (24, DEFAULT)], 24),
    ],
    ids=["a thumbnail", "the default is smaller", "two defaults", "none is", "avi", "a cover"],
)
def test_the_stream_that_is_meant(suffix, streams, chosen, tmp_path, make_record):
    path = write_streams(tmp_path / f"a.{suffix}", streams)
    record = probe_video(make_record(path), LIMITS)
    assert (record.num_frames, record.height, record.width) == (16, chosen, 2 * chosen)
    for _, frame in frames_of(record, [0, 9], LIMITS):
        assert abs(frame.mean() - chosen) < 5


def test_a_row_from_before_streams_were_chosen(tmp_path, make_record):
    """It says how large the thumbnail is, and the file is the same."""
    path = write_streams(tmp_path / "a.mov", [(24, NONE), (48, DEFAULT)])
    old = replace(probe_video(make_record(path), LIMITS), height=24, width=48)
    with pytest.raises(
        VideoDecodeError, match="96 x 48, and 48 x 24 by its row; index it"
    ) as caught:
        list(frames_of(old, [0], LIMITS))
    assert caught.value.status == Status.CHANGED


def zip_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.mp4", b"x" * 999)
    return content.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("suffix", ["mp4", "avi", "webm"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (LFS, "is a git LFS pointer .* `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is an HTML or XML page and not a video"),
        (b'{"error": "quota"}', "is a JSON text and not a video"),
        (zip_archive(), "is a zip archive and not a video"),
        (b"not a video\n" * 50, "is a text and not a video"),
        ("Datei wurde gel\u00f6scht\r\n".encode(), "is a text and not a video"),
        (bytes(5000), "holds nothing but zeros"),
        (b"RIFF\0\0\0\0AVI LIST", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "does not say how large"),
    ],
    ids=["empty", "lfs", "html", "json", "zip", "text", "utf-8", "zeros", "a header", "a picture"],
)
def test_what_is_no_video(content, reason, suffix, tmp_path, make_record):
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(content)
    error = refusal(make_record(path))
    assert error.status == Status.UNREADABLE
    assert error.facts["num_bytes"] == len(content)
    assert re.match(reason, error.reason)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
def test_an_mp4_without_its_index(kept, tmp_path, make_video, make_record):
    path = make_video(tmp_path / "a.mp4", codec="libx264")
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert "its index (moov) is missing" in refusal(make_record(path)).reason


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_damage_is_placed(codec, tmp_path, make_video, make_record):
    path = make_video(tmp_path / "a.mkv", codec=codec, options={"g": "1", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0)]
    content = path.read_bytes()
    path.write_bytes(content.replace(packets[12], b"\xff" * len(packets[12])))
    error = refusal(make_record(path))
    assert error.reason.startswith("is damaged at frame 1")
    assert error.facts["codec"] == codec.removeprefix("lib").replace("x264", "h264").replace(
        "vpx-", ""
    )


def test_a_title_in_another_encoding_is_no_fault(tmp_path, make_record):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Zoe dances"
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(32, 24, "yuvj420p")))
    path.write_bytes(path.read_bytes().replace(b"Zoe dances", b"Zo\xeb dances"))
    assert probe_video(make_record(path), LIMITS).num_frames == 1


def test_only_a_cover_picture(tmp_path, make_record):
    error = refusal(make_record(write_streams(tmp_path / "song.mp4", [(96, COVER)])))
    assert (error.status, error.reason) == (
        Status.NO_VIDEO_STREAM,
        "has no video stream but a cover picture",
    )


def test_two_colons_in_a_name(tmp_path, make_video, make_record, monkeypatch):
    """fsspec takes them for two URIs, and would open another file."""
    monkeypatch.chdir(tmp_path)
    for path in (make_video(tmp_path / "a::b.mp4"), Path("a::b.mp4")):
        error = refusal(make_record(path))
        assert (error.status, "rename it" in error.reason) == (Status.UNREADABLE, True)


def test_links_in_a_circle(tmp_path, make_record):
    (tmp_path / "a.mp4").symlink_to("a.mp4")
    error = refusal(make_record(tmp_path / "a.mp4"))
    assert (error.status, "symbolic links" in error.reason) == (Status.UNREADABLE, True)
