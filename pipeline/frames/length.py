"""The length that a video declares, and the check that its frames reach it.

Only some containers declare one. For the others libav estimates a duration from what is there, so a
transport stream that was cut off looks whole.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

import av

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
STREAM_HAS_DURATION = (MOV, "avi", "mxf")
FILE_HAS_DURATION = ("matroska,webm", "flv", "asf")
# As ffmpeg writes it into matroska. "DURATION-eng" is mkvmerge's, and survives in cut copies.
CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
# Frames that may be missing at the end: containers round, packed XviD and edit lists drop some.
FRAMES_OFF = dict.fromkeys(STREAM_HAS_DURATION, 2.0) | dict.fromkeys(FILE_HAS_DURATION, 1.5)
CUT = "ends within a picture: its recording or copy was cut off"
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def declared_seconds(container: Any, stream: Any) -> float | None:
    """Return how long the *video* is by its header; None if that does not say.

    A duration of the whole file is the video's if nothing else is in it: sound may outlast
    pictures.
    """
    name = container.format.name
    seconds = float((stream.duration or 0) * stream.time_base)
    if name == "avi":  # libav shortens the duration of a truncated one, and leaves the count
        return max(seconds, float(stream.frames / (stream.average_rate or 1))) or None
    if name in STREAM_HAS_DURATION:
        return seconds or None
    whole = _file_seconds(container)
    if whole and (clock := CLOCK.fullmatch(stream.metadata.get("DURATION", ""))):
        hours, minutes, rest = clock.groups()
        return min(3600 * int(hours) + 60 * int(minutes) + float(rest), whole)
    return whole if len(container.streams) == 1 else None


class Length:
    """Compares the length that a video declares with its frames, while all are read."""

    def __init__(self, container: Any, stream: Any, content: bytes) -> None:
        self._container, self._stream = container, stream
        self._declared = declared_seconds(container, stream)
        self._file = _file_seconds(container)
        if container.format.name == "asf":  # libav disbelieves the header of a file that is short
            self._file = self._file or _asf_seconds(content)
        self._end = self._others_end = 0.0  # of the last packet: the video's, any other stream's
        self.cut = False  # whether a packet was cut off by the end of the file
        timed = container.format.name in STREAM_HAS_DURATION  # from the first frame, not from 0
        self._start = float((stream.start_time or 0) * stream.time_base) if timed else 0.0

    def packets(self) -> Iterator[Any]:
        """Yield the packets of the video."""
        declares = self._container.format.name in FRAMES_OFF
        for packet in self._container.demux():
            end = 0.0
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream is not self._stream:
                self._others_end = max(self._others_end, end)
            else:
                if packet.is_corrupt:  # in a transport stream that is common, and harmless
                    self.cut |= declares
                else:
                    self._end = max(self._end, end)
                yield packet

    def is_declared(self, num_frames: int) -> bool:
        """Return whether a header says how long the video is, or the file that it is in."""
        fragmented = self._container.format.name == MOV and num_frames > self._stream.frames
        return bool(self._declared or self._file) and not fragmented

    def fault(self, last: Any, num_frames: int) -> str:
        """Return the reason if a video ends earlier than it declares; "" if it does not.

        Fewer frames than declared are no sign on their own: an mp4 that was cut without encoding
        it again counts the hidden frames before its start, and an AVI those that were dropped.
        """
        stream, declared = self._stream, self._declared or self._file
        if last is None:
            fault = "holds no picture that can be decoded"
            return f"{fault}, of the {round(declared, 2)} s that it declares" if declared else fault
        if num_frames == stream.frames and not self.cut:
            return ""
        if last.time is None:
            if num_frames < stream.frames:
                return f"is truncated: {num_frames} frames of the {stream.frames} that it declares"
        elif declared is not None:
            ends_at = last.time - self._start
            frame = float(1 / stream.average_rate) if stream.average_rate else 0.0
            frame = max(frame, float((last.duration or 0) * last.time_base))
            end = max(ends_at + frame, self._end - self._start)
            if not self._declared:
                end = max(end, self._others_end)
            off = 0.5 if self.cut else FRAMES_OFF[self._container.format.name]
            if declared - end > off * frame:
                return f"ends at {ends_at:.2f} s of the {round(declared, 2)} s that it declares"
        return CUT if self.cut else ""


def _file_seconds(container: Any) -> float | None:
    """Return how long the file is by its header, with all that is in it."""
    if container.format.name not in FILE_HAS_DURATION or not container.duration:
        return None
    return float(container.duration / av.time_base)


def _asf_seconds(content: bytes) -> float | None:
    """Return how long a wmv is by its header."""
    place = content.find(ASF_FILE_PROPERTIES, 0, 4096) + 64
    if place < 64 or len(content) < place + 24:
        return None
    ticks, _, preroll_milliseconds = struct.unpack_from("<3Q", content, place)
    return max(0.0, ticks / 1e7 - preroll_milliseconds / 1e3) or None
