"""Errors that a user can act on, and the exit codes that jobs report them with.

::

    PipelineError                 exit code
    |- ConfigError                2   a YAML file or an override is wrong
    |- DatasetError               2   annotations, labels or the manifest are wrong
    |- WeightsMismatch            2   a checkpoint does not fit the network or the classes
    |- FingerprintMismatch        2   an artefact was made from something else
    |- StoreIncomplete            2   an artefact that is needed is not sealed yet
    |- StoreCorrupt               2   a file is not what its seal says
    |- StoreUnsound               2   the doctor found something in a sealed store
    |- ViewMismatch               2   a student's clip is not the one that the teacher saw
    |- TrainingDiverged           2   a loss or a gradient is not finite
    |- TrialsFailed               2   students of a sweep could not be trained
    |- ExportMismatch             2   an exported file does not compute what the network does
    |- TooManyFailedVideos        3   too many bad or missing videos
    |- StorageUnavailable         4   storage did not answer
    |- ClusterUnavailable         4   Ray did not start, or is not where it should be
    `- VideoDecodeError           2   in training; in other stages it becomes the row's status

After Ctrl-C a job ends with exit code 130, and after SIGTERM with 143; the same command goes on.

A message says what was wrong, what was found and what to do. Jobs print it as one block and end
with the exit code; every other exception is a bug of ours and keeps its traceback. ``__str__``
builds messages from the arguments, so that an error survives pickling between processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


def printable(name: str) -> str:
    r"""Return a file's name as text, with ``\xe9`` for each byte that is not UTF-8."""
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return text.replace("\0", "\\0")


class Status(IntEnum):
    """The state of a video in the manifest, or of one of its views in the logit store."""

    MISSING = 0  # never written; in a sealed store only where no view is wanted
    GOOD = 1
    NOT_FOUND = 2  # the annotations name a video that is not there
    UNREADABLE = 3  # not a video, truncated, zero bytes, an unknown codec
    NO_VIDEO_STREAM = 4  # audio only
    TOO_SHORT = 5  # fewer frames than dataset.min_frames, or than its manifest row says
    OVER_LIMIT = 6  # more pixels, frames or seconds than dataset.limits allow
    TIMED_OUT = 7  # the decoder took longer than dataset.limits.decode_seconds
    CRASHED = 8  # the decoder's process died
    CHANGED = 9  # the size of the picture or the bytes differ from the manifest row
    LABEL_OUT_OF_RANGE = 10
    BAD_LOGITS = 11  # the teacher gave NaN, infinity or a constant
    BAD_NAME = 12  # leads out of dataset.root, or cannot be opened: '::', a backslash, not UTF-8


class PipelineError(Exception):
    """Base of all errors that jobs report without a traceback."""

    exit_code = 2


class ConfigError(PipelineError):
    """A config file, an override or a combination of settings is wrong."""


class DatasetError(PipelineError):
    """Annotations, labels or the manifest are wrong."""


class WeightsMismatch(PipelineError):
    """A checkpoint does not fit the network or the data set."""


class StoreIncomplete(PipelineError):
    """An artefact that this job needs is not there or not sealed."""


class StoreUnsound(PipelineError):
    """A sealed store is wrong, or damaged; the doctor's report says where."""


class ViewMismatch(PipelineError):
    """The proof of view failed: a student's clip differs from the teacher's."""


class TrainingDiverged(PipelineError):
    """A loss or a gradient is not finite; stopped before the optimiser step."""


class TrialsFailed(PipelineError):
    """Some trials of a sweep failed; the others are trained and kept."""


class ExportMismatch(PipelineError):
    """An exported file does not compute what the network does; nothing was published."""


class TooManyFailedVideos(PipelineError):
    """The share of bad or of missing videos is over its limit in ``dataset``."""

    exit_code = 3


class StorageUnavailable(PipelineError):
    """Storage did not answer before the deadline."""

    exit_code = 4


class ClusterUnavailable(PipelineError):
    """A private Ray did not start, or there is no cluster at the address."""

    exit_code = 4


class StoreCorrupt(PipelineError):
    """A file is not what its seal says it is."""

    def __init__(self, uri: str, expected: str, found: str) -> None:
        super().__init__(uri, expected, found)
        self.uri, self.expected, self.found = uri, expected, found

    def __str__(self) -> str:
        return (
            f"{self.uri} is damaged\n  expected: {self.expected}\n  found:    {self.found}\n"
            "  Delete the artefact and run the job that made it again."
        )


class FingerprintMismatch(PipelineError):
    """An artefact was made from other inputs than the config names.

    ``differences`` maps a dotted key to its value in the artefact and in the config.
    """

    def __init__(self, uri: str, differences: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(uri, differences)
        self.uri, self.differences = uri, dict(differences)

    def __str__(self) -> str:
        lines = [
            f"  {key}: store {store}, config {config}"
            for key, (store, config) in sorted(self.differences.items())
        ]
        return "\n".join(
            [
                f"{self.uri} was made from something else:",
                *lines,
                "  Change the config back, or set store.uri or frames.uri to a new place.",
            ]
        )


class VideoDecodeError(PipelineError):
    """One video could not be decoded. Recorded with its row, counted and listed.

    ``facts`` are columns of its row that are known all the same, from its header.
    """

    def __init__(self, sample_id: str, uri: str, reason: str, status: Status) -> None:
        super().__init__(sample_id, uri, reason, status)
        self.sample_id, self.uri, self.reason, self.status = sample_id, uri, reason, status
        self.facts: dict[str, Any] = {}

    def __str__(self) -> str:
        return printable(f"{self.sample_id} ({self.uri}): {self.reason}")
