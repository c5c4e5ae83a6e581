"""Real video files whose pixels say which frame they are, and a small data set made of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Before pipeline is imported, which keeps local copies there: two processes that share them
    # would take each other's copies for their own. Children get the same folder.
    run = os.environ["PYTEST_XDIST_TESTRUNUID"]
    os.environ["TMPDIR"] = f"/tmp/dvflnet-tests-{run}-{worker}"
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    tempfile.tempdir = None  # it may be known already, from before

from pipeline.config.experiment import ExperimentConfig
from pipeline.dataset.annotations import read_annotations
from pipeline.dataset.manifest import Manifest, VideoRecord, build_manifest, located, write_manifest
from pipeline.errors import Status
from pipeline.frames.video import probe_video
from pipeline.logits.cells import Cells, centre
from pipeline.logits.spec import Unit, plan_store
from pipeline.views.clip import clips_of
from pipeline.views.view import build_view
from tests.logits.imaginary import write_store
from tests.s3_server import ANOTHER_SERVER, environment_for, make_bucket, s3_server

Picture = NDArray[np.uint8]  # (H, W, 3)

CLASS_NAMES = ("Archery", "Bowling")
TRAIN_GROUPS, VAL_GROUPS = range(2, 7), range(1, 2)
CLIPS_PER_GROUP = 2
BARS = 8  # bits of a frame's number, along the bottom of the picture
MILLISECONDS = Fraction(1, 1000)
ENCODER_OPTIONS = {
    "mpeg4": {"qscale": "2"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
}

# The first call of anything may take seconds on a busy machine.
hypothesis.settings.register_profile("no_deadline", deadline=None, max_examples=50)
hypothesis.settings.load_profile("no_deadline")


def picture_of(number: int, width: int, height: int) -> Picture:
    """Draw the frame ``number``: ramps that tell every pixel from its neighbours, and a bar code.

    The whole picture changes from frame to frame, and no part of it is symmetric.
    """
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.linspace(20, 235, width)
    picture[..., 1] = np.linspace(20, 235, height)[:, None]
    picture[..., 2] = 40 + 97 * number % 160
    for bar in range(BARS):
        left, right = bar * width // BARS, (bar + 1) * width // BARS
        picture[2 * height // 3 :, left:right] = 235 if number >> bar & 1 else 20
    return picture


def number_of(picture: Picture) -> int:
    """Read the number of a frame back from its bar code."""
    height, width, _ = picture.shape
    code = picture[5 * height // 6].mean(axis=1)
    middles = [(2 * bar + 1) * width // (2 * BARS) for bar in range(BARS)]
    return sum(int(code[middle] > 128) << bar for bar, middle in enumerate(middles))


def write_video(
    path: Path,
    num_frames: int = 24,
    width: int = 64,
    height: int = 48,
    *,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    frame_rate: int = 25,
    first_number: int = 0,
    milliseconds: Sequence[int] | None = None,
    quarter_turns: int = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Encode a video; the suffix of ``path`` decides the container.

    Width and height are those of the upright picture. ``first_number`` is what the bar code of the
    first frame says; ``milliseconds`` are the presentation times of all frames, instead of a
    constant rate; ``quarter_turns`` are clockwise turns that a player has to make, only in mp4.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stored_width, stored_height = (width, height) if quarter_turns % 2 == 0 else (height, width)
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(
            codec, rate=frame_rate, options=options or ENCODER_OPTIONS.get(codec, {})
        )
        stream.width, stream.height, stream.pix_fmt = stored_width, stored_height, pix_fmt
        if quarter_turns:
            stream.set_display_rotation(-90 * quarter_turns)
        if milliseconds is not None:
            stream.codec_context.time_base = MILLISECONDS
        for position in range(num_frames):
            upright = picture_of(first_number + position, width, height)
            stored = np.ascontiguousarray(np.rot90(upright, quarter_turns))
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[position], MILLISECONDS
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


@dataclass(frozen=True)
class Dataset:
    """A small data set on disk in the layout of UCF101, and its manifest."""

    root: Path
    manifest: Manifest

    def config(self, artefacts: Path, **sections: Any) -> ExperimentConfig:
        """Return a small experiment on it; ``sections`` replace settings, nested or whole."""
        tiny = {"variant": "nano", "embed_dim": 8, "depths": (1, 1, 1, 1)}
        values: dict[str, Any] = {
            "artefacts": str(artefacts),
            "dataset": {
                "name": "tiny",
                "root": str(self.root),
                "layout": "ucf101",
                "annotations": str(self.root / "splits"),
                "num_classes": len(CLASS_NAMES),
            },
            "clip": {"num_frames": 4, "side": 32},
            "views": {"num_views": 3},
            "teacher": tiny,
            "student": tiny,
            "store": {"clips_per_unit": 12, "units_per_shard": 2},
            "optim": {"warmup_epochs": 0.5, "lr": 0.05, "lr_batch_size": None},
            "train": {"epochs": 3, "batch_size": 4, "log_every_steps": 2, "audit_rate": 1.0},
            "evaluate": {"batch_size": 3},
            "cluster": {"teacher_batch_size": 5},
        }
        for name, section in sections.items():
            values[name] = values.get(name, {}) | section
        return ExperimentConfig.model_validate(values)

    def publish(self, config: ExperimentConfig) -> None:
        """Write the manifest where an experiment's jobs look for it."""
        records = tuple(
            replace(record, uri=str(Path(record.uri).relative_to(self.root)))
            for record in self.manifest.records
        )
        relative = replace(self.manifest, records=records)
        write_manifest(relative, config.manifest_uri, root=str(self.root))


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def draw_picture() -> Callable[[int, int, int], Picture]:
    return picture_of


@pytest.fixture(scope="session")
def read_number() -> Callable[[Picture], int]:
    return number_of


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twenty videos of train and four of val. Tests leave it as they found it."""
    root = tmp_path_factory.mktemp("dataset")
    videos = [
        f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi"
        for group in (*VAL_GROUPS, *TRAIN_GROUPS)
        for name in CLASS_NAMES
        for clip in range(1, CLIPS_PER_GROUP + 1)
    ]
    for place, video in enumerate(videos):
        write_video(root / video, 14 + place % 5, first_number=7 * place % 200)
    num_val = len(VAL_GROUPS) * len(CLASS_NAMES) * CLIPS_PER_GROUP
    _write_lists(root / "splits", val=videos[:num_val], train=videos[num_val:])
    return Dataset(root, _index(root))


def _write_lists(folder: Path, *, val: list[str], train: list[str]) -> None:
    folder.mkdir()
    numbers = {name: number for number, name in enumerate(CLASS_NAMES, start=1)}
    classes = [f"{number} {name}" for name, number in numbers.items()]
    lines = [f"{video} {numbers[video.partition('/')[0]]}" for video in train]
    for name, content in (("classInd", classes), ("trainlist01", lines), ("testlist01", val)):
        (folder / f"{name}.txt").write_text("\n".join([*content, ""]))


def _index(root: Path) -> Manifest:
    config = Dataset(root, Manifest("", (), ())).config(root)
    annotated = read_annotations(config.dataset)
    records = located(annotated.records, str(root))
    probed = [probe_video(record, config.dataset.limits) for record in records]
    return build_manifest(config.dataset.name, annotated.class_names, probed)


@pytest.fixture(scope="session")
def tiny_config(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    """The experiment of ``sealed_store``."""
    return dataset.config(tmp_path_factory.mktemp("experiment") / "artefacts")


@pytest.fixture(scope="session")
def sealed_store(dataset: Dataset, tiny_config: ExperimentConfig) -> str:
    """URI of a sealed store: real views and proofs, and logits that no teacher gave."""
    config, manifest = tiny_config, dataset.manifest
    spec = plan_store(config, manifest=manifest, teacher_digest="ab" * 32)
    write_store(
        config.store_uri, spec, manifest.records, lambda unit: real_cells(config, manifest, unit)
    )
    return config.store_uri


def real_cells(config: ExperimentConfig, manifest: Manifest, unit: Unit) -> Cells:
    """Return views and proofs of real clips, and logits that no teacher gave."""
    views, clips = [], []
    for row, view_indices in zip(unit.rows, unit.views, strict=True):
        record = manifest.records[row]
        wanted = [
            build_view(config.views, record, index, num_frames=config.clip.num_frames)
            for index in view_indices
        ]
        views += wanted
        clips += clips_of(record, wanted, config.dataset.limits, side=config.clip.side)
    rows, indices = np.array(unit.coordinates).T
    draws = np.random.RandomState(unit.number)
    logits, offset = centre(draws.normal(0, 3, (len(rows), len(CLASS_NAMES))).astype(np.float32))
    return Cells(
        row=rows.astype(np.int32),
        view_index=indices.astype(np.int16),
        status=np.full(len(rows), Status.GOOD, np.uint8),
        logits=logits,
        logit_offset=offset,
        view_digest=np.array([view.digest for view in views], np.uint64),
        frame_crc=np.stack([clip.frame_crc for clip in clips]),
    )


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a real S3 server on loopback, and the environment that leads there."""
    another = os.environ.get(ANOTHER_SERVER)
    server = nullcontext(another) if another else s3_server(tmp_path_factory.mktemp("s3"))
    with server as endpoint, environment_for(endpoint):
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """URI of an empty bucket."""
    return make_bucket()


@pytest.fixture(scope="session")
def make_record() -> Callable[[Path], VideoRecord]:
    """Return a record of a video that was never probed."""
    return lambda path: VideoRecord(sample_id=path.stem, uri=str(path), label=0, split="train")
