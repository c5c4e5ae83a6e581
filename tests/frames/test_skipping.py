"""Decoding with gaps: never another frame than a whole sequential decode gives, whatever the file.

What is compared with is PyAV alone, decoding everything, with none of our code in between.
"""

import random
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import VideoDecodeError
from pipeline.frames import video
from pipeline.frames.pictures import orientation_of
from pipeline.frames.skipping import DROPPABLE, VOP_START, CannotPlan, Picture
from pipeline.frames.video import frames_of, probe_video

LIMITS = VideoLimits()
NUM_FRAMES = 40
X264 = {"preset": "ultrafast", "b_strategy": "0", "sc_threshold": "0"}
X265 = {"preset": "ultrafast"}
X265_QUIET = "log-level=none:b-adapt=0:scenecut=0"


@dataclass(frozen=True)
class Kind:
    """How a video is made; ``packed`` as DivX and XviD do it, ``skippable`` as probing must say."""

    suffix: str
    codec: str
    options: dict[str, str]
    packed: bool = False
    skippable: bool = False
    pix_fmt: str = "yuv420p"

    def write(self, path: Path, make_video: Any, **more: Any) -> Path:
        told = {"codec": self.codec, "options": self.options, "pix_fmt": self.pix_fmt} | more
        made = make_video(path.with_suffix(self.suffix), NUM_FRAMES, **told)
        return pack_b_frames(made) if self.packed else made


def x264(suffix: str = ".mp4", *, skippable: bool = True, **options: Any) -> Kind:
    return Kind(suffix, "libx264", X264 | written(options), skippable=skippable)


def x265(suffix: str = ".mp4", *, skippable: bool = True, params: str = "") -> Kind:
    params = f"{X265_QUIET}:{params}".rstrip(":")
    return Kind(suffix, "libx265", X265 | {"x265-params": params}, skippable=skippable)


def xvid(*, packed: bool, **options: Any) -> Kind:
    return Kind(".avi", "mpeg4", {"qscale": "3"} | written(options), packed, skippable=True)


def written(options: dict[str, Any]) -> dict[str, str]:
    return {name.replace("_params", "-params"): str(value) for name, value in options.items()}


KINDS = {
    "h264": x264(bf=3, g=12),
    "h264 with references among its B-frames": x264(bf=3, x264_params="b-pyramid=normal"),
    "h264 in matroska": x264(".mkv", bf=2, g=250),
    "h264, open groups": x264(bf=3, g=10, x264_params="open-gop=1"),
    "h264, interlaced": x264(bf=2, x264_params="interlaced=1"),
    "h264, several slices": x264(bf=2, x264_params="slices=3"),
    "hevc": x265(params="bframes=3:keyint=12"),
    "hevc, open groups": x265(".mkv", params="bframes=4:open-gop=1:keyint=8"),
    "hevc, closed groups": x265(params="bframes=2:open-gop=0:keyint=9"),
    "hevc without B-frames": x265(params="bframes=0", skippable=False),
    "xvid": xvid(packed=False, bf=1, g=12),
    "xvid, two B-frames": xvid(packed=False, bf=2, g=100),
    "xvid, packed": xvid(packed=True, bf=1, g=100),
    "xvid, two B-frames, packed": xvid(packed=True, bf=2, g=15),
    "mpeg4 in mp4": Kind(".mp4", "mpeg4", {"bf": "2", "g": "12"}, skippable=True),
    "mpeg4 without B-frames": Kind(".avi", "mpeg4", {"bf": "0"}),
    "h264 without B-frames": x264(bf=0, skippable=False),
    "h264 in avi": x264(".avi", bf=3, skippable=False),
    "h264 in a transport stream": x264(".ts", bf=2, skippable=False),
    "vp9, hidden frames": Kind(
        ".webm",
        "libvpx-vp9",
        {"deadline": "good", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"},
    ),
    "av1": Kind(".mp4", "libsvtav1", {"preset": "13", "svtav1-params": "keyint=12"}),
    "mjpeg": Kind(".avi", "mjpeg", {}, pix_fmt="yuvj420p"),
    "mpeg2": Kind(".mkv", "mpeg2video", {"bf": "2"}),
}
SKIPPABLE = [name for name, kind in KINDS.items() if kind.skippable]

every_kind = pytest.mark.parametrize("name", KINDS)
property_test = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True, scope="module")
def _quiet_encoders():
    """SVT-AV1 has no other switch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVT_LOG", "0")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("skipping")


@pytest.fixture(scope="module")
def record_of(folder, make_video, make_record):
    """Return the probed record of a kind of video; files are made once."""
    probed: dict[str, VideoRecord] = {}

    def find(name: str) -> VideoRecord:
        if name not in probed:
            path = KINDS[name].write(folder / name.replace(" ", "_"), make_video)
            probed[name] = probe_video(make_record(path), LIMITS)
        return probed[name]

    return find


@pytest.fixture
def sequential_passes(monkeypatch) -> list[list[int]]:
    """The frames that each sequential pass was asked for."""
    asked, sequential = [], video._sequential

    def counted(record, content, wanted, limits):
        asked.append(list(wanted))
        return sequential(record, content, wanted, limits)

    monkeypatch.setattr(video, "_sequential", counted)
    return asked


def whole_decode(uri: str) -> list[np.ndarray]:
    with av.open(uri, metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_exact(record: VideoRecord, wanted: list[int], whole: list[np.ndarray]) -> None:
    found = list(frames_of(record, wanted, LIMITS))
    assert [index for index, _ in found] == sorted(set(wanted))
    for index, frame in found:
        assert np.array_equal(frame, whole[index]), f"frame {index} of {record.uri}"


def pack_b_frames(path: Path) -> Path:
    """Rewrite an AVI as DivX and XviD do: a B-frame in the packet of the frame that it precedes.

    A filler, which is a picture "not coded", stands where the last B-frame of a run was.
    """
    packed = path.with_stem(f"{path.stem}_packed")
    with av.open(str(path)) as source, av.open(str(packed), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        pictures = [packet for packet in source.demux(stream) if packet.size]
        for number, content in enumerate(packed_contents([bytes(p) for p in pictures])):
            packet = av.Packet(content)
            packet.stream, packet.time_base = copy, stream.time_base
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            target.mux(packet)
    return packed


def packed_contents(contents: list[bytes]) -> list[bytes]:
    filler = VOP_START + b"\x50\x00\x00"
    is_b = [content[content.find(VOP_START) + 4] >> 6 == 2 for content in contents]
    packed, place = [], 0
    while place < len(contents):
        follower = place + 1
        if follower < len(contents) and is_b[follower]:
            packed.append(contents[place] + contents[follower])
            place += 2
            while place < len(contents) and is_b[place]:
                packed.append(contents[place])
                place += 1
            packed.append(filler)
        else:
            packed.append(contents[place])
            place += 1
    first = packed[0]
    start = first.find(VOP_START)
    packed[0] = first[:start] + b"\x00\x00\x01\xb2DivX503b1393p" + first[start:]
    return packed


# --- exact, everywhere ----------------------------------------------------------------------------


@every_kind
def test_probing_says_what_may_be_skipped(name, record_of):
    assert record_of(name).num_frames == NUM_FRAMES
    assert record_of(name).skippable == KINDS[name].skippable
    if name == "av1":
        assert record_of(name).codec == "av1"  # though libdav1d decodes it


@every_kind
def test_sparse_frames_are_those_of_a_whole_decode(name, record_of, sequential_passes):
    record, draws = record_of(name), random.Random(name)
    whole = whole_decode(record.uri)
    for num_frames in (1, 2, 4, 8, 16, 32, NUM_FRAMES):
        assert_exact(record, draws.sample(range(NUM_FRAMES), num_frames), whole)
    assert bool(sequential_passes) != KINDS[name].skippable


@st.composite
def recipes(draw) -> tuple[Kind, dict[str, Any]]:
    """Codec, container, group size, B-frames, rate, length: any that exist together."""
    b_frames, group = draw(st.integers(0, 4)), draw(st.integers(1, 60))
    codec = draw(st.sampled_from(["libx264", "libx265", "mpeg4", "libvpx-vp9"]))
    if codec == "libx264":
        params = f"b-pyramid={draw(st.sampled_from(['none', 'strict', 'normal']))}"
        params += f":open-gop={draw(st.integers(0, 1))}:ref={draw(st.integers(1, 4))}"
        options = X264 | {"bf": str(b_frames), "g": str(group), "x264-params": params}
        suffixes = [".mp4", ".mkv", ".avi", ".mov", ".flv"]
    elif codec == "libx265":
        params = (
            f"{X265_QUIET}:bframes={b_frames}:keyint={group}:b-pyramid={draw(st.integers(0, 1))}"
        )
        params += f":open-gop={draw(st.integers(0, 1))}:temporal-layers={draw(st.integers(0, 3))}"
        options, suffixes = X265 | {"x265-params": params}, [".mp4", ".mkv"]
    elif codec == "mpeg4":
        options = {"bf": str(b_frames), "g": str(group), "qscale": "4"}
        suffixes = [".avi", ".mp4", ".mkv"]
    else:
        options = {"deadline": "realtime", "cpu-used": "8", "g": str(group)}
        suffixes = [".webm", ".mkv"]
    suffix = draw(st.sampled_from(suffixes))
    more: dict[str, Any] = {}
    if suffix != ".avi" and codec != "mpeg4" and draw(st.booleans()):
        gaps = draw(st.lists(st.integers(1, 400), min_size=NUM_FRAMES, max_size=NUM_FRAMES))
        more["milliseconds"] = list(accumulate(gaps))
    packed = suffix == ".avi" and codec == "mpeg4" and draw(st.booleans())
    return Kind(suffix, codec, options, packed), more


@given(recipe=recipes(), data=st.data())
@property_test
def test_no_wrong_frame_in_any_recipe(recipe, data, folder, make_video, make_record):
    kind, more = recipe
    try:
        path = kind.write(folder / "any", make_video, **more)
    except av.error.ArgumentError:
        reject()  # x265 cannot time some layers, and no container takes what it says then
    record = probe_video(make_record(path), LIMITS)
    whole = whole_decode(record.uri)
    assert record.num_frames == len(whole)
    for _ in range(3):
        num_wanted = data.draw(st.sampled_from([4, 8, 16, 32]))
        indices = st.integers(0, record.num_frames - 1)
        wanted = data.draw(st.lists(indices, min_size=num_wanted, max_size=num_wanted))
        assert_exact(record, wanted, whole)


@pytest.mark.parametrize("name", SKIPPABLE)
def test_fewer_pictures_are_decoded(name, record_of, monkeypatch):
    decoded, decode_wanted = [], video.decode_wanted

    def counted(*arguments):
        for frame in decode_wanted(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "decode_wanted", counted)
    list(frames_of(record_of(name), [0, 30], LIMITS))
    assert 2 <= len(decoded) < 30


# --- files that mislead ---------------------------------------------------------------------------


def remux(source: Path, target: Path, times: Any) -> Path:
    """Copy packets with other times: ``times(packet)`` gives (pts, dts), or None to drop it."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            told = times(packet) if packet.size else None
            if told is not None:
                packet.pts, packet.dts = told
                packet.stream = copy
                new.mux(packet)
    return target


def test_times_in_decoding_order_are_not_believed(tmp_path, record_of, make_record):
    """A muxer that knows no B-frames writes such files; their order looks as good as any."""
    liar = remux(
        Path(record_of("h264").uri), tmp_path / "liar.mkv", lambda packet: (packet.dts, packet.dts)
    )
    record = probe_video(make_record(liar), LIMITS)
    assert record.num_frames == NUM_FRAMES
    assert not record.skippable
    assert_exact(record, [0, 1, 2, 7, 20], whole_decode(record.uri))


def units(*headers: tuple[int, int], length_bytes: int = 4) -> Picture:
    """A picture of NAL units that are nothing but header; no decoder sees it."""
    content = b"".join((2).to_bytes(length_bytes) + bytes(header) for header in headers)
    return Picture(av.Packet(content), position=0)


def stream_of(codec: str, extradata: bytes) -> SimpleNamespace:
    return SimpleNamespace(codec_context=SimpleNamespace(name=codec, extradata=extradata))


KEY, REFERENCE, NO_REFERENCE, SEI = (0x65, 0), (0x41, 0), (0x01, 0), (0x06, 0)


@pytest.mark.parametrize(
    ("pictures", "droppable"),
    [
        ([[KEY], [REFERENCE], [SEI, NO_REFERENCE]], True),
        ([[KEY], [REFERENCE], [NO_REFERENCE, NO_REFERENCE]], True),
        ([[KEY], [REFERENCE], [REFERENCE, REFERENCE]], False),
        ([[KEY], [REFERENCE, NO_REFERENCE], [NO_REFERENCE]], False),
        ([[KEY], [SEI], [NO_REFERENCE]], False),
    ],
    ids=["a frame", "its slices", "references only", "one field of two", "no picture"],
)
def test_what_h264_says_of_its_pictures(pictures, droppable):
    stream = stream_of("h264", bytes([1, 100, 0, 30, 0xFF]))
    assert DROPPABLE["h264"]([units(*headers) for headers in pictures], stream) == droppable


IDR, TRAIL_R, TRAIL_N, TSA_N, LOWEST, HIGHER = 19 << 1, 1 << 1, 0, 2 << 1, 1, 2


@pytest.mark.parametrize(
    ("pictures", "droppable"),
    [
        ([(IDR, LOWEST), (TRAIL_R, LOWEST), (TRAIL_N, LOWEST)], True),
        ([(IDR, LOWEST), (TRAIL_R, LOWEST), (TSA_N, HIGHER)], True),
        ([(IDR, LOWEST), (TRAIL_N, LOWEST), (TSA_N, HIGHER)], False),
        ([(IDR, LOWEST), (TRAIL_R, LOWEST)], False),
    ],
    ids=["one layer", "of the highest layer", "that a higher layer may need", "references only"],
)
def test_what_hevc_says_of_its_pictures(pictures, droppable):
    stream = stream_of("hevc", bytes([1] + 20 * [0] + [3]))
    assert DROPPABLE["hevc"]([units(header) for header in pictures], stream) == droppable


@pytest.mark.parametrize(
    ("content", "extradata", "message"),
    [
        ("000000026500", "", "no stated lengths"),
        ("000000026500", "0000000167640016", "no stated lengths"),
        ("000000096500", "0164001eff", "does not fit"),
    ],
)
def test_units_that_make_no_sense(content, extradata, message):
    picture = Picture(av.Packet(bytes.fromhex(content)), position=0)
    with pytest.raises(CannotPlan, match=message):
        DROPPABLE["h264"]([picture], stream_of("h264", bytes.fromhex(extradata)))


@pytest.mark.parametrize("name", ["h264", "hevc", "xvid, packed"])
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_never_ends_in_a_wrong_frame(name, data, record_of, folder, make_record):
    original = record_of(name)
    content = bytearray(Path(original.uri).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = folder / f"damaged{Path(original.uri).suffix}"
    path.write_bytes(content)
    try:
        record = probe_video(make_record(path), LIMITS)
    except VideoDecodeError:
        return
    assume(not is_turned(record.uri))  # by the damage; whole_decode turns no frame
    whole = whole_decode(record.uri)
    assume(is_defined(record.uri, whole))
    wanted = data.draw(st.lists(st.integers(0, record.num_frames - 1), min_size=1, max_size=8))
    assert_exact(record, wanted, whole)


def is_turned(uri: str) -> bool:
    with av.open(uri, metadata_errors="replace") as container:
        return any(orientation_of(next(container.decode(video=0))))


def is_defined(uri: str, whole: list[np.ndarray]) -> bool:
    """Whether frames that are kept, so that no memory is used again, have the same pixels.

    Where a slice of HEVC ends early, libav leaves in the picture what the memory held, and says
    nothing: some three damaged files of a thousand. Training finds such clips by their CRCs.
    """
    with av.open(uri, metadata_errors="replace") as container:
        container.streams.video[0].codec_context.thread_count = 1
        kept = list(container.decode(video=0))
    pictures = [frame.to_ndarray(format="rgb24") for frame in kept]
    return all(np.array_equal(*pair) for pair in zip(pictures, whole, strict=True))


def test_a_picture_of_hevc_that_cannot_be_decoded(tmp_path, record_of, make_record):
    """libav shows it all the same, as whatever the memory held: other pixels in each decode."""
    original = record_of("hevc")
    content = bytearray(Path(original.uri).read_bytes())
    with av.open(original.uri) as container:
        needed = [packet.pos for packet in container.demux(video=0) if packet.size][1]
    content[needed + 4] ^= 1  # the picture's header: it is of a layer that nobody decodes
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoDecodeError, match="is damaged at frame"):
        probe_video(make_record(path), LIMITS)


# --- surprises ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["h264 in avi", "vp9, hidden frames", "mpeg4 without B-frames"])
def test_a_row_that_promises_too_much_cannot_mislead(name, record_of, sequential_passes):
    record = replace(record_of(name), skippable=True)
    assert_exact(record, [1, 6, 30], whole_decode(record.uri))


def test_another_number_of_packets(record_of, sequential_passes):
    record = replace(record_of("h264"), num_frames=NUM_FRAMES + 1)
    assert_exact(record, [1, 6], whole_decode(record.uri))
    assert sequential_passes == [[1, 6]]


def test_a_frame_beyond_the_end(record_of, sequential_passes):
    frames = frames_of(record_of("h264"), [3, NUM_FRAMES], LIMITS)
    assert next(frames)[0] == 3
    with pytest.raises(VideoDecodeError, match="ended at frame 40"):
        next(frames)
    assert sequential_passes == [[NUM_FRAMES]]


def doubled(frames):
    for frame in frames:
        yield frame
        yield frame


def unlabelled(frames):
    for number, frame in enumerate(frames):
        if number > 4:
            frame.opaque = None
        yield frame


def one_missing(frames):
    yield from (frame for frame in frames if frame.opaque.number != 6)


def failing(frames):
    yield next(frames)
    raise av.error.InvalidDataError(1, "the decoder gave up")


@pytest.mark.parametrize("surprise", [doubled, unlabelled, one_missing, failing])
def test_surprises_end_in_a_sequential_pass(surprise, record_of, sequential_passes, monkeypatch):
    decode_wanted = video.decode_wanted
    monkeypatch.setattr(video, "decode_wanted", lambda *told: surprise(decode_wanted(*told)))
    record = record_of("h264")
    assert_exact(record, [0, 6, 25], whole_decode(record.uri))
    assert sequential_passes
