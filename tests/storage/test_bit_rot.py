"""Damage to any file that we write: it is refused by name, or what is read is what was written.

One table of kinds of file, and for each the reader that a stage uses. ``make chaos`` runs the long
sizes.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dvflnet.weights import state_digest
from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import Manifest, read_manifest, write_manifest
from pipeline.errors import FingerprintMismatch, PipelineError
from pipeline.frames import store as frame_store
from pipeline.frames.store import open_frame_store
from pipeline.logits import journal as logit_journal
from pipeline.logits.mirror import open_mirror
from pipeline.logits.store import open_store
from pipeline.networks.weight_files import read_weights, write_weights
from pipeline.storage.files import sha256_of
from pipeline.storage.sealed.identity import differences
from pipeline.storage.sealed.store import open_for_writing
from pipeline.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from pipeline.views.decoder import DecodeProcess
from pipeline.views.view import Box, View
from tests.frames.conftest import Example as FrameExample
from tests.logits.conftest import Example as LogitExample

FLIPS = [40, pytest.param(200, marks=pytest.mark.chaos)]
TRUNCATIONS = [16, pytest.param(64, marks=pytest.mark.chaos)]
MIN_FLIPS_DETECTED = 0.5  # the rest are padding, spaces and free text, or a mirror that was healed


@dataclass(frozen=True)
class Kind:
    """A kind of file: where a good one is, and how a stage reads it.

    ``read`` gets the folder and returns all that it holds. What ``heals`` is made again when it is
    damaged, and what is ``remade`` when it is missing.
    """

    folder: Path
    name: str
    sibling: str
    read: Callable[[Path], Any]
    heals: bool = False
    remade: bool = False

    @property
    def content(self) -> bytes:
        return (self.folder / self.name).read_bytes()


# --- readers --------------------------------------------------------------------------------------


def digest_of(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        name: sha256_of(value.tobytes()) if isinstance(value, np.ndarray) else value
        for name, value in arrays.items()
    }


def read_store(root: Path) -> Any:
    store = open_store(str(root))
    store.verify()
    return store.root_digest, store.spec, digest_of(vars(store.read_shard(0)))


def read_frames(decoder: DecodeProcess, root: Path) -> Any:
    """Read in a process of its own: what is mapped may crash it."""
    store = open_frame_store(str(root))
    clips = []
    for record in store.manifest.records:
        whole = View(
            0, tuple(range(record.num_frames)), Box(0, 0, record.height, record.width), flip=False
        )
        clips += decoder.clips(record, [whole], VideoLimits(), side=32)
    portable = [replace(record, uri="") for record in store.manifest.records]
    return store.root_digest, portable, [clip.frames.tobytes() for clip in clips]


def read_state(folder: Path) -> Any:
    state = read_checkpoint(str(folder))
    tensors = {**state.weights, "val_logits": state.val_logits}
    return state.step, state.seconds, state_digest(tensors), repr(state.optimiser)


def read_mirror(store: Path, folder: Path) -> Any:
    mirror = open_mirror(str(store), folder)
    return digest_of({name: np.asarray(value) for name, value in arrays_of(mirror)})


def arrays_of(mirror: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in vars(mirror).items() if isinstance(value, np.ndarray)]


def check_same(folder: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    if differing := differences(expected, found):
        raise FingerprintMismatch(str(folder), differing)


# --- the table ------------------------------------------------------------------------------------


def logit_kinds(root: Path, format_: str) -> dict[str, Kind]:
    example = LogitExample(format_)
    example.write_store(str(root))
    opened = root.with_name(f"{root.name}-open")  # begun, not sealed
    example.write_units(str(opened), example.units[:2])
    names = [entry.name for entry in open_store(str(root)).seal.files]
    shards = [name for name in names if name.endswith((".parquet", "logits/c/0/0/0", "/c/1/0/0"))]
    shared = [name for name in names if name.endswith("zarr.json")] or [
        "identity.json",
        "seal.json",
    ]

    def read_fragment(folder: Path) -> Any:
        cells = logit_journal.read_fragment(str(folder), example.spec, example.units[0])
        return digest_of(vars(cells))

    def read_identity(folder: Path) -> Any:
        return open_for_writing(str(folder), example.spec)

    mirrors = root.with_name(f"{root.name}-mirrors")
    mirror = f"{open_mirror(str(root), mirrors).root_digest}"

    def read_mirrored(folder: Path) -> Any:
        return read_mirror(root, folder)

    fragments = "journal/unit-000000.parquet", "journal/unit-000001.parquet"
    return {
        f"{format_} shard": Kind(root, shards[0], shards[1], read_store),
        f"{format_} metadata": Kind(root, shared[0], shared[1], read_store),
        "logit fragment": Kind(opened, *fragments, read_fragment),
        "identity, open store": Kind(
            opened, "identity.json", fragments[0], read_identity, remade=True
        ),
        "identity": Kind(root, "identity.json", "seal.json", read_store),
        "seal": Kind(root, "seal.json", "identity.json", read_store),
        "mirror record": Kind(
            mirrors, f"{mirror}/mirror.json", f"{mirror}/label.npy", read_mirrored, heals=True
        ),
        "mirror array": Kind(
            mirrors, f"{mirror}/logits.npy", f"{mirror}/status.npy", read_mirrored, heals=True
        ),
    }


def frame_kinds(root: Path, videos: Manifest, decoder: DecodeProcess) -> dict[str, Kind]:
    example = FrameExample(videos)
    example.write_store(str(root))

    def read_fragment(folder: Path) -> Any:
        return frame_store.read_fragment(str(folder), example.spec, 0)

    def read(folder: Path) -> Any:
        return read_frames(decoder, folder)

    fragments = "journal/unit-000000.parquet", "journal/unit-000001.parquet"
    files = "frames-00000.arrow", "frames-00001.arrow"
    return {
        "frame fragment": Kind(root, *fragments, read_fragment),
        "prepared frames": Kind(root, *files, read),
        "prepared manifest": Kind(root, "manifest.parquet", "identity.json", read),
        "seal of frames": Kind(root, "seal.json", "identity.json", read),
    }


def manifest_kinds(folder: Path) -> dict[str, Kind]:
    """Files that stand alone: only a store's identity tells one sound file from another."""
    example = LogitExample("parquet")
    state = {"head.weight": torch.randn(5, 9), "head.bias": torch.randn(5)}
    folder.mkdir()
    write_manifest(example.manifest, str(folder / "manifest.parquet"), root="/videos")
    fewer = replace(example.manifest, records=example.manifest.records[1:])
    write_manifest(fewer, str(folder / "other.parquet"), root="/videos")
    write_weights(str(folder / "weights.safetensors"), state, {"run": "w"}, class_names=["a", "ü"])
    write_weights(str(folder / "other.safetensors"), {"a": torch.ones(5)}, {"run": "o"})
    torch.save(state, folder / "weights.pth")
    torch.save({"a": torch.ones(5)}, folder / "other.pth")

    def manifest_of(folder: Path) -> Any:
        manifest = read_manifest(str(folder / "manifest.parquet"))
        expected, found = ({"manifest_digest": m.digest} for m in (example.manifest, manifest))
        check_same(folder, expected, found)
        return manifest

    def weights_of(name: str) -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            file = read_weights(str(folder / name))
            expected, found = ({"weights_sha256": state_digest(s)} for s in (state, file.state))
            check_same(folder, expected, found)
            return found, file.metadata

        return read

    return {
        "manifest": Kind(folder, "manifest.parquet", "other.parquet", manifest_of),
        "weights": Kind(
            folder, "weights.safetensors", "other.safetensors", weights_of("weights.safetensors")
        ),
        "published weights": Kind(folder, "weights.pth", "other.pth", weights_of("weights.pth")),
    }


def checkpoint_kinds(folder: Path) -> dict[str, Kind]:
    layer = torch.nn.Linear(5, 3)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.randn(4, 5)).square().sum().backward()
    optimiser.step()
    weights = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    state = TrainingState(3, 1.5, torch.randn(6, 3), weights, optimiser.state_dict())
    folder.mkdir()
    write_checkpoint(str(folder), state, class_names=("a", "b", "c"), facts={"run": "w0.2"})
    siblings = {
        "checkpoint.json": "optimiser.pt",
        "weights.safetensors": "val_logits.safetensors",
        "val_logits.safetensors": "weights.safetensors",
        "optimiser.pt": "checkpoint.json",
    }
    return {
        f"checkpoint {name}": Kind(folder, name, sibling, read_state)
        for name, sibling in siblings.items()
    }


@pytest.fixture(scope="module")
def kinds(dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    folder, decoder = tmp_path_factory.mktemp("kinds"), DecodeProcess()
    videos = replace(dataset.manifest, records=dataset.manifest.records[:6])
    yield {
        **logit_kinds(folder / "zarr", "zarr"),
        **logit_kinds(folder / "parquet", "parquet"),
        **frame_kinds(folder / "frames", videos, decoder),
        **manifest_kinds(folder / "alone"),
        **checkpoint_kinds(folder / "checkpoint"),
    }
    decoder.close()


NAMES = [
    "logit fragment",
    "zarr shard",
    "zarr metadata",
    "parquet shard",
    "identity",
    "identity, open store",
    "seal",
    "mirror record",
    "mirror array",
    "frame fragment",
    "prepared frames",
    "prepared manifest",
    "seal of frames",
    "manifest",
    "weights",
    "published weights",
    "checkpoint checkpoint.json",
    "checkpoint weights.safetensors",
    "checkpoint val_logits.safetensors",
    "checkpoint optimiser.pt",
]


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    return kinds[request.param]


class Trials:
    """Damage copies of a good file, and count what comes of it."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.expected = kind.read(kind.folder)
        self.num_tried = self.num_detected = 0

    def of_contents(self, contents: Iterable[bytes]) -> None:
        """Read one copy whose file has other content each time; a complaint must name it."""
        copy = self.folder / "copy"
        shutil.copytree(self.kind.folder, copy)
        for number, content in enumerate(contents):
            copy = copy.rename(self.folder / str(number))  # as mapped files are kept by their path
            (copy / self.kind.name).unlink()
            (copy / self.kind.name).write_bytes(content)
            self._read(copy, self.kind.name)

    def of(self, damage: Callable[[Path], object]) -> None:
        """Read a copy that was damaged; a complaint must name its folder."""
        copy = self.folder / f"copy {self.num_tried}"
        shutil.copytree(self.kind.folder, copy)
        damage(copy)
        self._read(copy, str(copy))

    def _read(self, copy: Path, named: str) -> None:
        self.num_tried += 1
        try:
            found = self.kind.read(copy)
        except (PipelineError, FileNotFoundError) as error:
            self.num_detected += 1
            if isinstance(error, FingerprintMismatch):  # is about the whole of an artefact
                named = str(copy)
            assert named in str(error), error  # noqa: PT017
        else:
            assert found == self.expected, "missed"


@pytest.fixture
def trials(kind: Kind, tmp_path: Path, record_property: Callable[..., None]) -> Iterator[Trials]:
    trials = Trials(kind, tmp_path)
    yield trials
    record_property("tried", trials.num_tried)
    record_property("detected", trials.num_detected)


# --- the damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_flips", FLIPS)
def test_a_flipped_bit(kind: Kind, trials: Trials, num_flips: int) -> None:
    draws, content = random.Random(num_flips), kind.content

    def flipped() -> bytes:
        damaged, bit = bytearray(content), draws.randrange(8 * len(content))
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    trials.of_contents(flipped() for _ in range(num_flips))
    assert kind.heals or trials.num_detected > MIN_FLIPS_DETECTED * num_flips


@pytest.mark.parametrize("num_places", TRUNCATIONS)
def test_a_truncated_file(kind: Kind, trials: Trials, num_places: int) -> None:
    content = kind.content
    trials.of_contents(content[: place * len(content) // num_places] for place in range(num_places))
    assert trials.num_detected == (0 if kind.heals else num_places)


def test_a_missing_file(kind: Kind, trials: Trials) -> None:
    trials.of(lambda copy: (copy / kind.name).unlink())
    assert trials.num_detected == (0 if kind.heals or kind.remade else 1)


def test_a_file_too_many(kind: Kind, trials: Trials) -> None:
    for name in (f"{kind.name}.tmp", f"{Path(kind.name).parent}/unit-000099.parquet"):
        trials.of(lambda copy, name=name: shutil.copy(copy / kind.sibling, copy / name))
    assert trials.num_detected == 0


def test_two_swapped_files(kind: Kind, trials: Trials) -> None:
    def swap(copy: Path) -> None:
        first, second = copy / kind.name, copy / kind.sibling
        first.rename(copy / "between")
        second.rename(first)
        (copy / "between").rename(second)

    trials.of(swap)
    assert trials.num_detected == (0 if kind.heals else 1)
