"""Proof of view: the student's clip is the one that the teacher saw.

The store holds, for every row and view, a digest of the view's parameters and the CRC of every
cropped frame. A student recomputes them for a sampled share of its clips, with no teacher and no
GPU. Accuracy would hardly show a mismatch (a target of the wrong view costs some 0.3 points), so
only a proof will do.
"""

from __future__ import annotations

from pipeline.config.load import VideoLimits
from pipeline.errors import ViewMismatch
from pipeline.logits.mirror import Mirror
from pipeline.training.diagnosis import Mismatch, diagnose, explain_digest
from pipeline.views.clip import Clip
from pipeline.views.loader import ClipBatch, ClipRequest
from pipeline.views.view import keyed_hash


def is_audited(seed: int, epoch: int, row: int, rate: float) -> bool:
    """Whether a row is audited in an epoch: pure, so that a resumed run audits the same rows."""
    return keyed_hash(seed, "audit", epoch, row) % 2**32 < rate * 2**32


def audit(batch: ClipBatch, mirror: Mirror, limits: VideoLimits) -> int:
    """Check the proved clips of a batch against the store; return how many there were.

    Args:
        batch: of clips.
        mirror: of the store.
        limits: guards on the decoder, which is asked again to find the cause of a mismatch.

    Raises:
        ViewMismatch: naming the sample, the frames that differ and the likely cause.

    """
    proved = [pair for pair in zip(batch.requests, batch.clips, strict=True) if pair[0].prove]
    for request, clip in proved:
        _compare(request, clip, mirror, limits)
    return len(proved)


def _compare(request: ClipRequest, clip: Clip, mirror: Mirror, limits: VideoLimits) -> None:
    view = request.view
    who = f"{request.record.sample_id} ({request.record.uri}), view {view.view_index}"
    if view.digest != mirror.view_digest_of(request.row, view.view_index):
        raise ViewMismatch(
            f"{who}: frames, crop, flip or jitter are not those of the teacher's view.\n"
            f"  {explain_digest(request, mirror)}"
        )
    expected = mirror.frame_crc_of(request.row, view.view_index)[:: request.frame_stride]
    differing = [t for t in range(len(expected)) if expected[t] != clip.frame_crc[t]]
    if differing:
        mismatch = Mismatch(request, expected.tolist(), clip.frame_crc.tolist())
        raise ViewMismatch(
            f"{who}: the pixels of frames {differing} of {len(expected)} are not those that the "
            "teacher saw, although file and view are the same.\n"
            f"  {diagnose(mismatch, mirror, limits)}"
        )
