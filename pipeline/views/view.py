"""Views: deterministic looks at a video, the same for teacher and student.

A view is a pure function of ``(seed, policy, sample_id, view_index)`` and of the video's frame
count and size. No process state, epoch, rank or batch enters, so a cached target is valid for a
student step exactly when both ask for the same view.

Every draw is a keyed hash of its coordinates. Draws come from named streams (``time``, ``crop``,
``flip``, ``photo``, ``mix``), so that a new draw in one operation never shifts another's numbers,
and all results are integers: library distributions and ``libm`` differ between versions and
machines.

The policy is that of the published code: T equal segments with a random frame in each, a random
resized crop, flip, colour jitter, grey. It differs in two points. The crop's aspect is uniform in
[1, max_aspect] with a coin for its direction, which needs integers alone; published it is
log-uniform over the same range. Jitter is drawn once a clip unless ``jitter_per_frame``.

Indices from 0 are training views. -1 is the evaluation view: centred in time and in space. Views of
a protocol of several clips and crops have indices below -1 (``evaluation_views``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import isqrt

from pipeline.config.schema import ViewsConfig
from pipeline.dataset.manifest import VideoRecord
from pipeline.errors import ConfigError

# Part of every draw and of the fingerprint; raise it when a draw changes its meaning.
POLICY_VERSION = 1
EVALUATION_VIEW = -1
# The published sampler keeps 3 frames free at the end (a "frame interval" of 4 around one frame).
# Of 32 prepared candidates that would be a tenth of the video, so none of those is left out.
UNUSED_TAIL_FRAMES = 3
CROP_TRIES = 10
ASPECT_STEPS = 1024
AREA_STEPS = 65536
JITTER_STEPS = 256
# The published evaluation resizes the short side to 256 and crops 224 from its centre.
EVALUATION_CROP = (224, 256)
MAX_PROTOCOL_VIEWS = 999
SHARE_STEPS = 2048  # of a clip's share in a mixed one; both as in dvflnet.mixing
MIX_GRID = 224  # edges of a CutMix box, in steps of the clip's side


@dataclass(frozen=True)
class Box:
    """A crop, in pixels of the upright source picture."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Jitter:
    """Photometric parameters in steps of 1/256: factors (256 changes nothing), hue in turns."""

    brightness: int = JITTER_STEPS
    contrast: int = JITTER_STEPS
    saturation: int = JITTER_STEPS
    hue: int = 0
    grey: int = 0

    @property
    def as_row(self) -> tuple[int, int, int, int, int]:
        return self.brightness, self.contrast, self.saturation, self.hue, self.grey


@dataclass(frozen=True)
class Mix:
    """How a clip is mixed with its partner's, as ``dvflnet.mixing`` does it.

    ``share`` is the clip's own outside the box ``(top, left, bottom, right)``. ``partner_digest``
    is a digest of the partner's name and view.
    """

    share: int
    box: tuple[int, int, int, int]
    partner_digest: int

    @property
    def as_row(self) -> tuple[int, int, int, int, int]:
        return self.share, *self.box


@dataclass(frozen=True)
class View:
    """One look at a video.

    ``frame_indices`` count decoded frames in presentation order and never decrease. ``jitters``
    holds one entry for the whole clip, or one a frame.
    """

    view_index: int
    frame_indices: tuple[int, ...]
    box: Box
    flip: bool
    jitters: tuple[Jitter, ...] = (Jitter(),)
    mix: Mix | None = None

    @property
    def digest(self) -> int:
        """64-bit digest of all parameters, the same on every machine."""
        box = self.box
        mixed = () if self.mix is None else (self.mix.as_row, self.mix.partner_digest)
        return keyed_hash(
            self.view_index,
            self.frame_indices,
            (box.top, box.left, box.height, box.width),
            int(self.flip),
            tuple(jitter.as_row for jitter in self.jitters),
            *mixed,
        )

    def every(self, stride: int) -> View:
        """Keep one frame in ``stride``: the clip of a student that sees fewer frames."""
        places = kept_places(len(self.frame_indices), stride)
        jitters = self.jitters if len(self.jitters) == 1 else [self.jitters[i] for i in places]
        frames = tuple(self.frame_indices[place] for place in places)
        return replace(self, frame_indices=frames, jitters=tuple(jitters))


def kept_places(num_frames: int, stride: int) -> list[int]:
    """Return the places of the frames that are kept of a clip, one in ``stride``.

    They are spread evenly from the first frame to the last, so that the end of a video is seen.
    """
    gaps = num_frames // stride - 1
    if gaps == 0:
        return [(num_frames - 1) // 2]
    return [(2 * i * (num_frames - 1) + gaps) // (2 * gaps) for i in range(gaps + 1)]


def build_view(
    policy: ViewsConfig, record: VideoRecord, view_index: int, *, num_frames: int
) -> View:
    """Return the view ``view_index`` of a video; -1 is the evaluation view."""
    _check_probed(record)
    if view_index == EVALUATION_VIEW:
        return View(
            view_index=view_index,
            frame_indices=_centred_frames(record.num_frames, _unused_tail(record), num_frames),
            box=_evaluation_boxes(policy, record.width, record.height, 1)[0],
            flip=False,
        )
    if view_index < 0:
        raise ValueError(f"no evaluation view has the index {view_index}")
    draws, tail = Draws(policy.seed, record.sample_id, view_index), _unused_tail(record)
    return View(
        view_index=view_index,
        frame_indices=_random_frames(draws, record.num_frames, tail, num_frames),
        box=_random_box(draws, policy, record.width, record.height),
        flip=draws.chance("flip", 0, policy.flip_probability),
        jitters=tuple(
            _random_jitter(draws, policy, frame)
            for frame in range(num_frames if policy.jitter_per_frame else 1)
        ),
    )


@dataclass(frozen=True)
class Protocol:
    """The views that make one prediction: ``num_clips`` in time x ``num_crops`` in space."""

    num_clips: int = 1
    num_crops: int = 1

    def __post_init__(self) -> None:
        if min(self.num_clips, self.num_crops) < 1 or self.num_views > MAX_PROTOCOL_VIEWS:
            raise ValueError(
                f"a protocol has 1 to {MAX_PROTOCOL_VIEWS} views; "
                f"{self.num_clips} clips x {self.num_crops} crops are not"
            )

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    @property
    def name(self) -> str:
        """Its name in metrics, such as ``4x3``."""
        return f"{self.num_clips}x{self.num_crops}"


def evaluation_views(
    policy: ViewsConfig, record: VideoRecord, protocol: Protocol, *, num_frames: int
) -> tuple[View, ...]:
    """Return the views of a protocol, clip by clip; 1 x 1 is the one evaluation view.

    Deterministic, where the published evaluation draws its clips anew each time: clip ``c`` of
    ``C`` takes from each of the T segments the frame at ``(2c + 1) / 2C`` of it. Several crops are
    squares of the short side at equal distances along the long one, from its start to its end; one
    crop is the centre of the evaluation view.
    """
    if protocol == Protocol():
        return (build_view(policy, record, EVALUATION_VIEW, num_frames=num_frames),)
    if policy.squash and protocol.num_crops > 1:
        raise ConfigError("views.squash shows the whole picture; there is one crop of it, not more")
    _check_probed(record)
    tail = _unused_tail(record)
    looks = [
        (_centred_frames(record.num_frames, tail, num_frames, clip, protocol.num_clips), box)
        for clip in range(protocol.num_clips)
        for box in _evaluation_boxes(policy, record.width, record.height, protocol.num_crops)
    ]
    first = -(protocol.num_clips * 1000 + protocol.num_crops) * (MAX_PROTOCOL_VIEWS + 1)
    return tuple(
        View(view_index=first - position, frame_indices=frames, box=box, flip=False)
        for position, (frames, box) in enumerate(looks)
    )


def view_for_epoch(epoch: int, name: str, num_views: int, *, seed: int) -> int:
    """Return the view that the video, or the mix group, of this name shows in an epoch.

    Every cycle of ``num_views`` epochs shows each view once, in an order of its own; the start is
    shifted from name to name, so that no epoch shows the same view of all videos.
    """
    position = (epoch + keyed_hash(seed, "rotation", name)) % num_views
    return _order_of_cycle(seed, epoch // num_views, num_views)[position]


@lru_cache(maxsize=8)
def _order_of_cycle(seed: int, cycle: int, num_views: int) -> list[int]:
    return sorted(range(num_views), key=lambda view: keyed_hash(seed, "cycle", cycle, view))


@dataclass(frozen=True)
class Draws:
    """All random numbers of one view, or of a pair of them, addressed by stream and position."""

    seed: int
    sample_id: str
    view_index: int

    def below(self, stream: str, position: int, bound: int) -> int:
        """Draw an integer in [0, bound); the bias of the remainder is under 2**-40."""
        coordinates = (self.seed, POLICY_VERSION, self.sample_id, self.view_index, stream, position)
        return keyed_hash(*coordinates) % bound

    def between(self, stream: str, position: int, low: int, high: int) -> int:
        """Draw an integer in [low, high]."""
        return low + self.below(stream, position, high - low + 1)

    def chance(self, stream: str, position: int, probability: float) -> bool:
        return self.below(stream, position, AREA_STEPS) < round(probability * AREA_STEPS)


def keyed_hash(*coordinates: object) -> int:
    """Hash coordinates to 64 bits, the same on every machine: the source of all randomness here."""
    text = "|".join(map(str, coordinates))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _check_probed(record: VideoRecord) -> None:
    if record.num_frames < 1 or record.width < 1 or record.height < 1:
        raise ValueError(f"{record.sample_id} has no known size; index it first")


def _unused_tail(record: VideoRecord) -> int:
    return 0 if record.prepared else UNUSED_TAIL_FRAMES


def _random_frames(draws: Draws, available: int, tail: int, num_frames: int) -> tuple[int, ...]:
    """Draw one frame from each of ``num_frames`` equal segments, as published."""
    span = available - tail
    segment = span // num_frames
    if segment > 0:
        return tuple(i * segment + draws.below("time", i, segment) for i in range(num_frames))
    if available > max(num_frames, tail + 1):
        return tuple(sorted(draws.below("time", i, span) for i in range(num_frames)))
    rounded = (round(Fraction(i * max(span, 0), num_frames)) for i in range(num_frames))
    return tuple(min(index, available - 1) for index in rounded)  # half to even, as published


def _centred_frames(
    available: int, tail: int, num_frames: int, clip: int = 0, num_clips: int = 1
) -> tuple[int, ...]:
    """Take a frame of each of ``num_frames`` equal segments: the middle one, as published.

    Several clips take frames at equal distances within a segment.
    """
    span, steps = max(available - tail, 0), 2 * num_clips  # of a segment
    places = (steps * i + 2 * clip + 1 for i in range(num_frames))
    return tuple(place * span // (steps * num_frames) for place in places)


def _random_box(draws: Draws, policy: ViewsConfig, width: int, height: int) -> Box:
    low, high = round(policy.min_area * AREA_STEPS), round(policy.max_area * AREA_STEPS)
    steepest = round(policy.max_aspect * ASPECT_STEPS)
    for attempt in range(CROP_TRIES):
        area = width * height * draws.between("crop", 5 * attempt, low, high) // AREA_STEPS
        aspect = draws.between("crop", 5 * attempt + 1, ASPECT_STEPS, steepest)
        wide = draws.below("crop", 5 * attempt + 2, 2) == 1
        across, down = (aspect, ASPECT_STEPS) if wide else (ASPECT_STEPS, aspect)
        if policy.squash:
            across, down = across * width, down * height
        box_width, box_height = isqrt(area * across // down), isqrt(area * down // across)
        if 0 < box_width <= width and 0 < box_height <= height:
            top = draws.between("crop", 5 * attempt + 3, 0, height - box_height)
            left = draws.between("crop", 5 * attempt + 4, 0, width - box_width)
            return Box(top, left, box_height, box_width)
    return Box(0, 0, height, width) if policy.squash else _centre_square(width, height, 1, 1)


def _centre_square(width: int, height: int, numerator: int, denominator: int) -> Box:
    """Return the centred square whose side is a fraction of the short side."""
    side = max(min(width, height) * numerator // denominator, 1)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def _random_jitter(draws: Draws, policy: ViewsConfig, frame: int) -> Jitter:
    """Draw the jitter of one frame; whether there is any is drawn once for the clip."""

    def factor(position: int, strength: float) -> int:
        spread = round(strength * JITTER_STEPS)
        return JITTER_STEPS + draws.between("photo", 2 + 4 * frame + position, -spread, spread)

    grey = int(draws.chance("photo", 0, policy.grey_probability))
    if not draws.chance("photo", 1, policy.jitter_probability):
        return Jitter(grey=grey)
    return Jitter(
        brightness=factor(0, policy.jitter_brightness),
        contrast=factor(1, policy.jitter_contrast),
        saturation=factor(2, policy.jitter_saturation),
        hue=factor(3, policy.jitter_hue) - JITTER_STEPS,
        grey=grey,
    )


def _evaluation_boxes(
    policy: ViewsConfig, width: int, height: int, num_crops: int
) -> tuple[Box, ...]:
    if policy.squash:
        return (Box(0, 0, height, width),)
    if num_crops == 1:
        return (_centre_square(width, height, *EVALUATION_CROP),)
    side = min(width, height)
    offsets = [k * (max(width, height) - side) // (num_crops - 1) for k in range(num_crops)]
    places = [(0, offset) if width > height else (offset, 0) for offset in offsets]
    return tuple(Box(top, left, side, side) for top, left in places)
