"""The effect of prepared frames on the teacher's answers: top-1 and KL at three JPEG qualities.

    python -m benchmarks.jpeg_quality CONFIG [section.key=value ...]

CONFIG is an experiment that is indexed and has a teacher. Prints a Markdown section. The evaluation
view of every good video of val goes through the teacher: from the video, once with the frames that
videos show and once with the candidates' frames, and from prepared frames. KL and agreement compare
with the second of these, so they show the effect of shrinking and JPEG, not that of other frames.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import kl_div, log_softmax

from benchmarks.prepared_frames import sealed_file
from benchmarks.section import options, print_section, say
from pipeline.config.experiment import ExperimentConfig
from pipeline.config.load import load_config
from pipeline.dataset.manifest import VideoRecord
from pipeline.frames.prepared import candidate_indices
from pipeline.frames.source import read_videos
from pipeline.networks.teacher import TeacherPredictor
from pipeline.views.decoder import DecodeProcess
from pipeline.views.loader import jitter_rows
from pipeline.views.view import EVALUATION_VIEW, View, build_view

QUALITIES = (80, 90, 95)


@dataclass(frozen=True)
class Source:
    """Where frames come from: a record and the view of it, for every video."""

    name: str
    records: Sequence[VideoRecord]
    views: Sequence[View]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.overrides)
    manifest = read_videos(config)
    videos = [r for r in manifest.records if r.split == "val" and r.good]
    teacher, decoder = TeacherPredictor(config, manifest.class_names), DecodeProcess()
    with tempfile.TemporaryDirectory() as folder:
        sources = [Source("videos", videos, [evaluation_view(config, v) for v in videos])]
        for quality in QUALITIES:
            say(f"preparing q{quality}")
            root = Path(folder, f"q{quality}")
            sources.append(prepared(config, videos, quality, root, decoder))
        sources.insert(1, same_frames(config, sources[0], sources[1]))
        logits = []
        for source in sources:
            say(source.name)
            logits.append(logits_of(config, source, teacher, decoder))
    decoder.close()
    report(config, sources, logits)


def prepared(
    config: ExperimentConfig,
    videos: Sequence[VideoRecord],
    quality: int,
    root: Path,
    decoder: DecodeProcess,
) -> Source:
    frames = config.frames.model_copy(update={"quality": quality})
    found = [decoder.prepare(r, config.dataset.limits, frames=frames) for r in videos]
    records = sealed_file(found, root)
    return Source(f"prepared, q{quality}", records, [evaluation_view(config, r) for r in records])


def same_frames(config: ExperimentConfig, videos: Source, candidates: Source) -> Source:
    """Look at the videos themselves, at the frames that prepared frames show."""
    views = []
    for record, plain, view in zip(videos.records, videos.views, candidates.views, strict=True):
        indices = candidate_indices(record.num_frames, config.frames.num_candidates)
        frame_indices = tuple(indices[index] for index in view.frame_indices)
        views.append(replace(plain, frame_indices=frame_indices))
    return Source("videos, the same frames", videos.records, views)


def evaluation_view(config: ExperimentConfig, record: VideoRecord) -> View:
    return build_view(config.views, record, EVALUATION_VIEW, num_frames=config.clip.num_frames)


def logits_of(
    config: ExperimentConfig, source: Source, teacher: TeacherPredictor, decoder: DecodeProcess
) -> npt.NDArray[np.float32]:
    """Return the teacher's logits of every video, (n, K), a batch at a time."""
    size, limits, side = config.cluster.teacher_batch_size, config.dataset.limits, config.clip.side
    found = []
    for start in range(0, len(source.records), size):
        views = source.views[start : start + size]
        clips = [
            decoder.clips(record, [view], limits, side=side)[0].frames
            for record, view in zip(source.records[start : start + size], views, strict=True)
        ]
        found.append(teacher.logits(np.stack(clips), jitter_rows(views)))
    return np.concatenate(found)


def report(
    config: ExperimentConfig, sources: Sequence[Source], logits: Sequence[npt.NDArray[np.float32]]
) -> None:
    labels = np.array([record.label for record in sources[0].records])
    truth = logits[1]
    rows = [
        (
            source.name,
            float(np.mean([record.num_bytes for record in source.records])) / 1e3,
            f"{(answers.argmax(1) == labels).mean():.2%}",
            f"{(answers.argmax(1) == truth.argmax(1)).mean():.2%}",
            f"{divergence(truth, answers):.5f}",
        )
        for source, answers in zip(sources, logits, strict=True)
    ]
    print_section(
        f"JPEG quality on {config.dataset.name} (`benchmarks/jpeg_quality.py`)",
        ("frames from", "kB a video", "top-1", "agreement", "KL, nats"),
        rows,
        f"The teacher on {len(labels)} videos of val, of which one is {1 / len(labels):.2%} of "
        "top-1. Agreement and KL are to the second row.",
    )


def divergence(truth: npt.NDArray[np.float32], answers: npt.NDArray[np.float32]) -> float:
    """Return the mean of KL(truth || answers) at temperature 1."""
    logs = [log_softmax(torch.from_numpy(logits), dim=1) for logits in (answers, truth)]
    return float(kl_div(*logs, reduction="batchmean", log_target=True))


if __name__ == "__main__":
    main()
