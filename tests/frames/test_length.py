"""What declares its length is held to it; what declares none is listed, and no error."""

import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config.schema import VideoLimits
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.video import probe_video

LIMITS = VideoLimits()
FASTSTART = {"movflags": "faststart"}
B_FRAMES = {"bf": "2", "g": "12"}
# File name -> what `make_video` is told, beside 36 frames at 12 a second.
DECLARING = {
    "a.webm": {"codec": "libvpx-vp9"},
    "b.mkv": {"codec": "libx264", "options": B_FRAMES},
    "c.mp4": {"codec": "libx264", "options": B_FRAMES, "container": FASTSTART},
    "d.mov": {"codec": "mpeg4", "container": FASTSTART},
    "e.avi": {"codec": "mpeg4", "options": B_FRAMES},
    "f.flv": {"codec": "libx264", "options": B_FRAMES},
    "g.wmv": {"codec": "wmv2"},
    "h.3gp": {"codec": "mpeg4", "container": FASTSTART},
}
SILENT = {
    "a.ts": {"codec": "libx264"},
    "b.mts": {"codec": "libx264", "container": {"mpegts_m2ts_mode": "1"}},
    "c.mpg": {"codec": "mpeg2video", "frame_rate": 25},
    "d.mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "e.h264": {"codec": "libx264"},
    "f.mp4": {"codec": "libx264", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "g.webm": {"codec": "libvpx-vp9", "container": {"live": "1"}},
}


def add_sound(container, seconds: int):
    """Add a track of silence; call what is returned when the pictures are written."""
    rate = 8000
    stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")

    def write() -> None:
        for second in range(seconds):
            samples = np.zeros((1, rate), np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return write


def with_sound(path: Path, picture: Path, seconds: int) -> Path:
    """Copy the video of a file and lay silence below it."""
    with av.open(str(picture)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        write_sound = add_sound(target, seconds)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
        write_sound()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lengths")


@pytest.fixture(scope="module")
def video_at(folder, make_video):
    """Return a video of 36 frames; files are made once."""

    def find(name: str) -> Path:
        path = folder / name
        told = {"frame_rate": 12} | (DECLARING | SILENT)[name]
        return path if path.exists() else make_video(path, 36, 160, 96, **told)

    return find


def cut(path: Path, kept: float, folder: Path) -> Path:
    """Keep a share of the pictures; an index may follow them, without which a video is whole."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    target = folder / path.name
    target.write_bytes(path.read_bytes()[: places[int(kept * len(places))] + 9])
    return target


@pytest.mark.parametrize("name", DECLARING)
def test_a_whole_video_has_no_notes(name, video_at, make_record):
    record = probe_video(make_record(video_at(name)), LIMITS)
    assert (record.num_frames, record.notes) == (36, "")


@pytest.mark.parametrize("kept", [0.4, 0.6, 0.9])
@pytest.mark.parametrize("name", DECLARING)
def test_a_truncated_video_is_held_to_what_it_declares(name, kept, video_at, tmp_path, make_record):
    with pytest.raises(
        VideoDecodeError, match=r": ends at [\d.]+ s of the 3\.\d+ s that it"
    ) as caught:
        probe_video(make_record(cut(video_at(name), kept, tmp_path)), LIMITS)
    assert caught.value.status == Status.UNREADABLE
    facts = pickle.loads(pickle.dumps(caught.value)).facts
    assert (facts["width"], facts["height"], facts["frame_rate"]) == (160, 96, pytest.approx(12))


@pytest.mark.parametrize("name", DECLARING)
def test_a_video_without_a_whole_picture(name, video_at, tmp_path, make_record):
    with pytest.raises(VideoDecodeError, match=r"no picture|does not say how large") as caught:
        probe_video(make_record(cut(video_at(name), 0, tmp_path)), LIMITS)
    assert caught.value.status == Status.UNREADABLE


@pytest.mark.parametrize("name", SILENT)
def test_a_length_that_is_not_declared_is_a_note(name, video_at, make_record):
    record = probe_video(make_record(video_at(name)), LIMITS)
    assert (record.num_frames, record.notes) == (36, "length_not_declared")


@pytest.mark.parametrize("name", ["a.ts", "b.mts", "c.mpg", "g.webm"])
def test_truncation_without_a_declared_length_stays_a_note(name, video_at, tmp_path, make_record):
    path = tmp_path / name
    path.write_bytes(video_at(name).read_bytes()[: video_at(name).stat().st_size * 2 // 3])
    record = probe_video(make_record(path), LIMITS)
    assert record.num_frames < 36
    assert "length_not_declared" in record.notes.split(",")


# --- sound ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
def test_sound_that_outlasts_the_pictures_is_no_fault(name, video_at, tmp_path, make_record):
    path = with_sound(tmp_path / name, video_at("b.mkv"), seconds=20)
    record = probe_video(make_record(path), VideoLimits(max_duration_seconds=5))
    assert (record.num_frames, record.notes) == (36, "")


def test_only_the_file_declares_a_length_and_its_sound_gets_there(video_at, tmp_path, make_record):
    """As other tools than ffmpeg write matroska: no DURATION tag for each stream."""
    path = with_sound(tmp_path / "a.mkv", video_at("b.mkv"), seconds=20)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"DURATION", b"DURATIOM"))
    record = probe_video(make_record(path), VideoLimits(max_duration_seconds=5))
    assert (record.num_frames, record.notes) == (36, "")
    path.write_bytes(path.read_bytes()[: len(content) // 2])
    with pytest.raises(VideoDecodeError, match=r"of the 20\.\d+ s that it declares"):
        probe_video(make_record(path), LIMITS)


# --- good videos that look cut --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mkv", "webm", "mp4", "mov", "flv"])
def test_a_variable_rate_is_no_truncation(suffix, tmp_path, make_video, make_record):
    gaps = [40 * i + 900 * (i > 9) + 2000 * (i > 22) for i in range(24)]
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    path = make_video(tmp_path / f"v.{suffix}", codec=codec, milliseconds=gaps)
    record = probe_video(make_record(path), LIMITS)
    assert (record.num_frames, record.notes) == (24, "")


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov", "flv"])
def test_a_copy_of_a_part_is_no_truncation(suffix, video_at, tmp_path, make_record):
    """A part cut out without encoding it again has its own length, whatever the whole declared."""
    path = tmp_path / f"part.{suffix}"
    with av.open(str(video_at("c.mp4"))) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        copy.metadata.update(stream.metadata | {"DURATION-eng": "00:10:00.000000000"})
        for packet in list(source.demux(stream))[12:30]:
            packet.stream = copy
            target.mux(packet)
    assert probe_video(make_record(path), LIMITS).notes == ""


def test_the_limit_holds_where_no_length_is_declared(video_at, make_record):
    with pytest.raises(VideoDecodeError, match="lasts 2 s; the limit is 2 s") as caught:
        probe_video(make_record(video_at("a.ts")), VideoLimits(max_duration_seconds=2))
    assert caught.value.status == Status.OVER_LIMIT
