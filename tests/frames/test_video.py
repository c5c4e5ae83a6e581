"""The one door to pixels: right frames of every kind of file, and a status for every bad one."""

import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import Status, VideoDecodeError
from pipeline.frames.video import frames_of, probe_video

LIMITS = VideoLimits()
B_FRAMES = {"bf": "3", "g": "12", "b_strategy": "0", "preset": "fast", "crf": "16"}
# Name -> file name and what `make_video` is told.
KINDS = {
    "mpeg4 in avi": ("a.avi", {"codec": "mpeg4"}),
    "mpeg4 with B-frames in avi": ("b.avi", {"codec": "mpeg4", "options": {"bf": "2", "g": "9"}}),
    "h264 with B-frames in mp4": ("c.mp4", {"codec": "libx264", "options": B_FRAMES}),
    "header first in mp4": ("n.mp4", {"codec": "libx264", "container": {"movflags": "faststart"}}),
    "h264 in matroska": ("d.mkv", {"codec": "libx264"}),
    "vp9 in webm": ("e.webm", {"codec": "libvpx-vp9"}),
    "mjpeg in avi": ("f.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "hevc in mp4": ("g.mp4", {"codec": "libx265"}),
    "10-bit h264": ("h.mp4", {"codec": "libx264", "pix_fmt": "yuv420p10le"}),
    "10-bit hevc": ("i.mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le"}),
    "odd sides": ("j.mp4", {"codec": "libx264", "pix_fmt": "yuv444p", "width": 67, "height": 51}),
    "odd sides, subsampled colour": ("k.avi", {"codec": "mpeg4", "width": 67, "height": 51}),
    "variable rate in mp4": (
        "l.mp4",
        {"codec": "libx264", "milliseconds": [40 * i + 300 * (i > 9) + i % 3 for i in range(24)]},
    ),
    "variable rate in webm": (
        "m.webm",
        {"codec": "libvpx-vp9", "milliseconds": [25 * i + 11 * (i % 2) for i in range(24)]},
    ),
}
# The name of a codec, and not that of who codes.
CODECS = {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9"}


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def video_of(folder, make_video, make_record) -> Callable[[str], VideoRecord]:
    """Return the probed record of a kind of video; files are made once."""
    probed: dict[str, VideoRecord] = {}

    def find(kind: str) -> VideoRecord:
        if kind not in probed:
            name, settings = KINDS[kind]
            probed[kind] = probe_video(make_record(make_video(folder / name, **settings)), LIMITS)
        return probed[kind]

    return find


@pytest.fixture(scope="session")
def avi(video_of) -> VideoRecord:
    return video_of("mpeg4 in avi")


def status_of(record: VideoRecord, limits: VideoLimits = LIMITS) -> Status:
    """Probe a video that must be refused, and return the status that it gets."""
    with pytest.raises(VideoDecodeError) as caught:
        probe_video(record, limits)
    assert record.sample_id in str(caught.value)
    return caught.value.status


# --- good files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_facts_and_frames_of_every_kind(kind, video_of, read_number):
    record, (_, wanted) = video_of(kind), KINDS[kind]
    assert (record.num_frames, record.rotation, record.notes) == (24, 0, "")
    assert (record.width, record.height) == (wanted.get("width", 64), wanted.get("height", 48))
    assert record.codec == CODECS.get(wanted["codec"], wanted["codec"])
    assert record.num_bytes == Path(record.uri).stat().st_size
    if "milliseconds" not in wanted:
        assert record.frame_rate == pytest.approx(25, rel=0.05)
    with av.open(record.uri) as container:
        shallow = wanted.get("pix_fmt", "yuv420p").removesuffix("10le")
        decoded = [frame.reformat(format=shallow) for frame in container.decode(video=0)]
    for indices in (range(24), [23, 4, 11, 4, 17, 0]):
        frames = list(frames_of(record, indices, LIMITS))
        assert [index for index, _ in frames] == sorted(set(indices))
        for index, frame in frames:
            assert read_number(frame) == index
            assert frame.dtype == np.uint8
            assert np.array_equal(frame, decoded[index].to_ndarray(format="rgb24"))


def test_hidden_frames_before_a_cut_do_not_count(tmp_path, make_video, make_record, read_number):
    """Cutting an mp4 without encoding it again keeps what lies from key frame to cut, hidden."""
    whole = make_video(tmp_path / "w.mp4", 48, codec="libx264", options={"g": "12", "bf": "2"})
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        key_frame, start = (int(Fraction(n, 25) / stream.time_base) for n in (12, 18))
        for packet in source.demux(stream):
            if packet.pts is not None and packet.pts >= key_frame:
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                packet.stream = copy
                target.mux(packet)
    record = probe_video(make_record(cut), LIMITS)
    with av.open(str(cut)) as container:
        assert record.num_frames < container.streams.video[0].frames
    numbers = [read_number(frame) for _, frame in frames_of(record, range(48 - 19), LIMITS)]
    assert numbers == list(range(19, 48))


# --- bad files ----------------------------------------------------------------------------------


def test_no_file(avi, tmp_path, make_record):
    assert status_of(make_record(tmp_path / "nothing.avi")) == Status.NOT_FOUND
    assert status_of(make_record(Path(avi.uri) / "below a file.avi")) == Status.NOT_FOUND
    assert status_of(make_record(tmp_path)) == Status.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden(tmp_path, make_record):
    path = tmp_path / "secret.avi"
    path.touch(mode=0)
    assert status_of(make_record(path)) == Status.UNREADABLE


def test_audio_only(tmp_path, make_record):
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = np.zeros((1, 8000), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, 0, Fraction(1, 8000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert status_of(make_record(path)) == Status.NO_VIDEO_STREAM


@pytest.mark.parametrize(
    "limits",
    [
        {"max_pixels": 64 * 48 - 1},
        {"max_frames": 23},
        {"max_duration_seconds": 0.9},
        {"max_bytes": 99},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_over_a_limit(limits, avi):
    assert status_of(avi, VideoLimits(**limits)) == Status.OVER_LIMIT


def test_slower_than_the_limit(avi):
    assert status_of(avi, VideoLimits(decode_seconds=1e-9)) == Status.TIMED_OUT


def changed_video(avi: VideoRecord, path: Path, place: int) -> VideoRecord:
    content = bytearray(Path(avi.uri).read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    return replace(avi, uri=str(path))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("place", [40, -500, -1])
def test_bytes_that_changed_after_indexing(place, verify, avi, tmp_path):
    """They are compared at the first visit in any case."""
    changed = changed_video(avi, tmp_path / "a.avi", place)
    with pytest.raises(VideoDecodeError) as caught:
        list(frames_of(changed, [0], LIMITS, verify=verify))
    assert caught.value.status == Status.CHANGED


def test_another_size_is_a_change_even_unverified(avi, tmp_path):
    path = tmp_path / "a.avi"
    path.write_bytes(Path(avi.uri).read_bytes() + b"\0")
    with pytest.raises(VideoDecodeError) as caught:
        list(frames_of(replace(avi, uri=str(path)), [0], LIMITS, verify=False))
    assert caught.value.status == Status.CHANGED


def test_a_frame_that_is_not_there(avi):
    with pytest.raises(
        VideoDecodeError, match="ended at frame 24; its manifest row says 24"
    ) as caught:
        list(frames_of(avi, [3, 24], LIMITS))
    assert caught.value.status == Status.TOO_SHORT


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile {name}\n",
        "#EXTM3U\n#EXTINF:1,\n{name}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
    ],
    ids=["concat", "m3u", "hls"],
)
def test_playlists_open_no_other_file(playlist, avi, tmp_path, monkeypatch, make_record):
    other = Path(avi.uri)
    monkeypatch.chdir(other.parent)
    path = tmp_path / "list.avi"
    path.write_text(playlist.format(name=other.name, path=other))
    assert status_of(make_record(path)) == Status.UNREADABLE
