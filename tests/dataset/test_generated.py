"""Generated videos: what a seed means, what the lists say, and what is in the files."""

import shutil
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray

from pipeline.config.schema import DatasetConfig, VideoLimits
from pipeline.dataset.annotations import read_annotations
from pipeline.dataset.generated.videos import (
    KINDS,
    KindName,
    generate_dataset,
    generate_videos,
    render,
    video_path,
    write_video,
)
from pipeline.dataset.manifest import located
from pipeline.errors import ConfigError
from pipeline.frames.video import probe_video

COUNTS = {"num_groups": 2, "num_val_groups": 1, "clips_per_group": 1}
OPPOSITES = [  # class, its time reversal, the axis along which they differ
    ("actions", "SlideLeft", "SlideRight", 0),
    ("actions", "SlideUp", "SlideDown", 1),
    ("gestures", "Left", "Right", 0),
    ("gestures", "Up", "Down", 1),
]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> KindName:
    return request.param


@pytest.fixture(scope="module")
def dataset(kind: KindName, tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    """A small data set on disk; tests leave it as they found it."""
    config = dataset_of(tmp_path_factory.mktemp(kind), kind, COUNTS)
    assert generate_dataset(config) == 2 * config.num_classes
    return config


def dataset_of(root: Path, kind: KindName, counts: dict[str, int]) -> DatasetConfig:
    return DatasetConfig.model_validate(
        {
            "name": kind,
            "root": str(root),
            "layout": "ucf101",
            "annotations": str(root / "splits"),
            "num_classes": len(tuple(KINDS[kind].CLASSES)),
            "generated": {"kind": kind, **counts},
        }
    )


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_second_run_writes_the_same_bytes_and_only_what_is_missing(
    dataset: DatasetConfig, kind: KindName, tmp_path: Path
) -> None:
    root = tmp_path / "again"
    shutil.copytree(dataset.root, root)
    *lost, kept = [root / video_path(name, 1, 1) for name in tuple(KINDS[kind].CLASSES)[:3]]
    for path in lost:
        path.unlink()
    kept.write_bytes(b"not to be touched")
    lines: list[str] = []
    generate_videos(root, kind=kind, seed=0, report=lines.append, **COUNTS)
    assert f"{len(lost)} of them to write" in lines[0]
    found = contents(root)
    assert found.pop(str(kept.relative_to(root))) == b"not to be touched"
    assert found.items() < contents(Path(dataset.root)).items()
    assert len(found) == len(contents(Path(dataset.root))) - 1


def test_seed_group_and_clip_each_make_another_video(kind: KindName, tmp_path: Path) -> None:
    name = next(iter(KINDS[kind].CLASSES))
    seen = set()
    for seed, group, clip in ((0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 1, 2)):
        write_video(tmp_path, kind, seed, name, group, clip)
        seen.add((tmp_path / video_path(name, group, clip)).read_bytes())
    assert len(seen) == 4


def test_lists_are_read_as_those_of_ucf101(dataset: DatasetConfig, kind: KindName) -> None:
    annotated = read_annotations(dataset)
    assert annotated.class_names == tuple(KINDS[kind].CLASSES)
    groups: dict[str, set[str]] = {"train": set(), "val": set()}
    for record in annotated.records:
        class_name, group, _ = record.sample_id.split("/")[-1].removeprefix("v_").split("_")
        assert tuple(KINDS[kind].CLASSES)[record.label] == class_name
        groups[record.split].add(group)
    assert groups == {"train": {"g02"}, "val": {"g01"}}


def test_every_listed_video_decodes_to_all_its_frames(dataset: DatasetConfig) -> None:
    records = located(read_annotations(dataset).records, dataset.root)
    assert len(records) == 2 * dataset.num_classes
    for record in records:
        path = Path(record.uri)
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            pictures = [frame.pict_type for frame in container.decode(video=0)]
        assert probe_video(record, VideoLimits()).num_frames == len(pictures)
        assert 24 <= len(pictures) <= 40
        assert PictureType.B in pictures


def test_file_shows_what_was_drawn(dataset: DatasetConfig, kind: KindName) -> None:
    name = tuple(KINDS[kind].CLASSES)[2]
    with av.open(str(Path(dataset.root) / video_path(name, 1, 1))) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    streams = [np.random.SeedSequence(0, spawn_key=key) for key in ((0, 1), (1, 2, 1, 1))]
    frames, _ = render(kind, name, *(np.random.default_rng(stream) for stream in streams))
    drawn = np.stack(list(frames)).astype(float)
    assert drawn.shape == np.shape(decoded)
    assert np.abs(drawn - decoded).mean() < 12


@pytest.mark.parametrize(("kind", "name", "reverse", "axis"), OPPOSITES)
def test_time_reversals_move_against_each_other(
    kind: KindName, name: str, reverse: str, axis: int
) -> None:
    backwards, forwards = (
        np.mean([heading(kind, each, seed) for seed in range(6)], axis=0)[axis]
        for each in (name, reverse)
    )
    assert backwards < -0.12
    assert forwards > 0.12


def heading(kind: KindName, class_name: str, seed: int) -> NDArray[np.float64]:
    """Where motion goes on the whole, in x and y: 1 if all of it goes right or down."""
    scene, own = np.random.default_rng(seed).spawn(2)
    frames, _ = render(kind, class_name, scene, own)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames][::2]
    flows = [
        cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 2, 13, 2, 5, 1.1, 0)
        for pair in pairwise(greys)
    ]
    flow = np.stack(flows).reshape(-1, 2).astype(float)
    return flow.sum(axis=0) / np.linalg.norm(flow, axis=1).sum()


def test_gestures_are_those_of_the_real_set_in_its_order() -> None:
    egogestar = "Carret CircleCC Del Down Left Right Square Star Tick Up"
    assert " ".join(KINDS["gestures"].CLASSES) == egogestar


def test_contradicting_config_is_named() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.generated: need 0 < num_val_groups"):
        generate_dataset(dataset_of(Path("/nowhere"), "actions", COUNTS | {"num_groups": 1}))
    filmed = dataset_of(Path("/nowhere"), "actions", COUNTS).model_copy(update={"generated": None})
    with pytest.raises(ConfigError, match="is not a generated set"):
        generate_dataset(filmed)


def test_folder_of_another_seed_or_kind_is_refused(dataset: DatasetConfig, kind: KindName) -> None:
    before = contents(Path(dataset.root))
    other: KindName = "actions" if kind == "gestures" else "gestures"
    for wanted, seed in ((kind, 1), (other, 0)):
        with pytest.raises(ValueError, match="delete it or choose another"):
            generate_videos(Path(dataset.root), kind=wanted, seed=seed, **COUNTS)
    assert contents(Path(dataset.root)) == before
