"""Decoding with gaps: pictures that are not wanted, and that no other picture needs, are skipped.

Half to two thirds of an H.264 video with B-frames are non-reference pictures, and dropping one
costs a decoder next to nothing. But a picture that never comes out cannot be counted, so the
position of each packet in the order of presentation must be known beforehand. For H.264 and HEVC it
comes from the container's times; for MPEG-4 part 2 (XviD), whose AVI files have none, from the
picture headers.

Neither is trusted. ``probe_video`` decodes every video from end to end, once, and
:func:`skipping_is_safe` compares the pictures that come out, one by one, with those that the
packets promise. Only a video that passes is ever decoded with gaps (``VideoRecord.skippable``); all
others, and all other codecs, are decoded sequentially.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from av.bitstream import BitStreamFilterContext

# A picture in MPEG-4 part 2 starts with this; the next two bits are its coding type.
VOP_START = b"\x00\x00\x01\xb6"
VOP_B = 2  # coding types: I 0, P 1, B 2, sprite 3


class CannotPlan(Exception):
    """The packets do not say in which order their pictures are shown."""


@dataclass(frozen=True, eq=False)
class Label:
    """A number that travels with a packet through the decoder, to the frame made from it.

    Every packet has a label object of its own, because PyAV keeps them under the object's id.
    """

    number: int


@dataclass(frozen=True)
class Picture:
    """One picture, in one packet; ``position`` counts in the order of presentation."""

    packet: Any
    position: int


def labelled_packets(packets: Iterable[Any], stream: Any) -> Iterator[Any]:
    stream.codec_context.copy_opaque = True
    for number, packet in enumerate(packets):
        packet.opaque = Label(number)
        yield packet


def number_of(frame: Any) -> int | None:
    """Return the number on a frame's label; None if there is none or the decoder had to guess."""
    return frame.opaque.number if frame.opaque is not None and not frame.is_corrupt else None


def plan_pictures(container: Any, stream: Any) -> list[Picture]:
    """Return all pictures in decoding order, each with its position in that of presentation.

    CannotPlan if the packets do not give it.
    """
    packets = [p for p in labelled_packets(container.demux(stream), stream) if p.size]
    if any(packet.is_discard or packet.is_corrupt for packet in packets):
        raise CannotPlan("some are hidden by an edit list, or damaged")
    if stream.codec_context.name == "mpeg4":
        packets = _one_picture_each(packets, stream)
        times = _mpeg4_times(packets)
    else:
        times = [packet.pts for packet in packets]
    if None in times or len(set(times)) < len(times):
        raise CannotPlan("pictures have no time, or the same one")
    position_of = {shown: position for position, shown in enumerate(sorted(times))}
    return [Picture(p, position_of[shown]) for p, shown in zip(packets, times, strict=True)]


def decode_wanted(
    pictures: Sequence[Picture], stream: Any, wanted: Collection[int]
) -> Iterator[Any]:
    """Decode the wanted positions, and only the pictures that they need.

    Yields frames in the order of presentation, unwanted references among them; ``number_of`` a
    frame is its position.
    """
    context = stream.codec_context
    places = [place for place, picture in enumerate(pictures) if picture.position in wanted]
    for picture in pictures[: max(places, default=-1) + 1]:
        picture.packet.opaque = Label(picture.position)
        context.skip_frame = "DEFAULT" if picture.position in wanted else "NONREF"
        yield from stream.decode(picture.packet)
    yield from stream.decode(None)  # frames that still wait inside for their turn


def skipping_is_safe(container: Any, stream: Any, shown: Sequence[int | None]) -> bool:
    """Return whether a video can be decoded with gaps: exactly, and with something to gain.

    ``container`` is freshly opened. ``shown`` holds ``number_of`` each frame of a whole sequential
    decode, in the order of presentation.
    """
    droppable = DROPPABLE.get(stream.codec_context.name)
    if droppable is None:
        return False
    try:
        pictures = plan_pictures(container, stream)
        presented = sorted(pictures, key=lambda picture: picture.position)
        promised = [picture.packet.opaque.number for picture in presented]
        return promised == list(shown) and droppable(pictures, stream)
    except CannotPlan:
        return False


# --- MPEG-4 part 2 --------------------------------------------------------------------------------


def _one_picture_each(packets: list[Any], stream: Any) -> list[Any]:
    """Undo the packing of DivX and XviD, which put a B-frame behind the frame that it precedes.

    The filler in the place of the B-frame is dropped, and its label goes to the B-frame, as in a
    decoder that is given the packed form.
    """
    if all(bytes(packet).count(VOP_START) == 1 for packet in packets):
        return packets
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    return [picture for packet in (*packets, None) for picture in unpack.filter(packet)]


def _mpeg4_times(packets: Sequence[Any]) -> list[int]:
    """Return when each picture is shown: a B-frame at once, any other when the next other comes."""
    others = [place for place, packet in enumerate(packets) if not _is_b_frame(packet)]
    following = dict(zip(others, (*others[1:], len(packets)), strict=True))
    return [2 * following.get(place, place) - (place in following) for place in range(len(packets))]


def _is_b_frame(packet: Any) -> bool:
    content = bytes(packet)
    type_at = content.find(VOP_START) + len(VOP_START)
    if not len(VOP_START) <= type_at < len(content):
        raise CannotPlan("a packet holds no picture")
    return content[type_at] >> 6 == VOP_B


def _mpeg4_droppable(pictures: Sequence[Picture], stream: Any) -> bool:
    return any(_is_b_frame(picture.packet) for picture in pictures)


# --- H.264 and HEVC -------------------------------------------------------------------------------


def _h264_droppable(pictures: Sequence[Picture], stream: Any) -> bool:
    """Return whether some pictures are no references, and none has a field that is one."""
    length_bytes, found = _nal_length_bytes(stream, place=4), False
    for picture in pictures:
        headers = _nal_headers(bytes(picture.packet), length_bytes)
        slices = {header[0] >> 5 & 3 > 0 for header in headers if 1 <= header[0] & 31 <= 5}
        if len(slices) != 1:
            return False
        found |= slices == {False}
    return found


def _hevc_droppable(pictures: Sequence[Picture], stream: Any) -> bool:
    """Return whether some pictures are no references, to any temporal layer.

    HEVC marks a picture that no other *of its own layer* needs, and decoders drop it then. Pictures
    of higher layers may well need it, so only the highest layer is safe.
    """
    length_bytes, layers, dropped = _nal_length_bytes(stream, place=21), set(), set()
    for picture in pictures:
        for header in _nal_headers(bytes(picture.packet), length_bytes):
            nal_type, layer = header[0] >> 1 & 63, header[1] & 7
            if nal_type < 32:  # a slice
                layers.add(layer)
            if nal_type < 16 and nal_type % 2 == 0:  # TRAIL_N, TSA_N, ..., RASL_N
                dropped.add(layer)
    return bool(dropped) and dropped == {max(layers)}


def _nal_length_bytes(stream: Any, *, place: int) -> int:
    """Return how many bytes state the length of a NAL unit, by the avcC or hvcC box."""
    box = stream.codec_context.extradata or b""
    if len(box) <= place or box[0] != 1:
        raise CannotPlan("NAL units have no stated lengths")
    return (box[place] & 3) + 1


def _nal_headers(content: bytes, length_bytes: int) -> Iterator[bytes]:
    """Yield the first two bytes of every NAL unit of a packet."""
    place = 0
    while place < len(content):
        start = place + length_bytes
        place = start + int.from_bytes(content[place:start])
        if not start + 2 <= place <= len(content):
            raise CannotPlan("a NAL unit does not fit into its packet")
        yield content[start : start + 2]


DROPPABLE = {"mpeg4": _mpeg4_droppable, "h264": _h264_droppable, "hevc": _hevc_droppable}
