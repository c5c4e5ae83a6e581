"""Files that were made to harm are refused by name: nothing of them runs, or fills the memory."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config.load import load_config
from pipeline.dataset.lists import read_json
from pipeline.dataset.manifest import Manifest, VideoRecord, read_manifest, write_manifest
from pipeline.errors import DatasetError, PipelineError, StoreCorrupt, WeightsMismatch
from pipeline.logits.store import open_store
from pipeline.networks.trained import load_trained
from pipeline.networks.weight_files import read_weights, write_weights
from pipeline.storage.files import sha256_of, write_json
from pipeline.storage.sealed.identity import canonical_json
from pipeline.storage.sealed.store import open_for_writing, read_seal
from pipeline.training.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from tests.logits.imaginary import EXAMPLE
from tests.untrained_student import write_student

GIGABYTE = 10**9
MAX_GROWTH_BYTES = 64 * 2**20  # where a gigabyte was offered


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    state = TrainingState(1, 2.5, torch.zeros(2, 3), {"a": torch.ones(2)}, {"state": {}})
    write_checkpoint(str(folder), state, class_names=("a", "b", "c"), facts={})
    return folder


def peak_bytes(*, reset: bool = False) -> int:
    """Return the most that this process has had in memory, since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(peak)


# --- code -----------------------------------------------------------------------------------------


class Payload:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_in_a_checkpoint_with_true_digests_is_not_run(tmp_path):
    folder, trace = checkpoint(tmp_path / "checkpoint"), tmp_path / "it_ran"
    buffer = io.BytesIO()
    torch.save({"state": Payload(f"touch {trace}")}, buffer)
    (folder / "optimiser.pt").write_bytes(buffer.getvalue())
    record = json.loads((folder / "checkpoint.json").read_text())
    record["optimiser_sha256"] = sha256_of(buffer.getvalue())
    del record["digest"]
    digest = sha256_of(canonical_json(record))
    write_json(str(folder / "checkpoint.json"), record | {"digest": digest})
    with pytest.raises(StoreCorrupt, match=r"optimiser\.pt .*\n.*tensors and plain values"):
        read_checkpoint(str(folder))
    assert not trace.exists()


def test_extension_types_in_a_manifest_are_refused_before_they_are_read(tmp_path):
    uri = str(tmp_path / "manifest.parquet")
    write_manifest(EXAMPLE.manifest, uri, root="/videos")
    table = pq.read_table(uri)
    uuids = pa.array([bytes(16)] * len(table), pa.uuid())
    pq.write_table(table.set_column(0, "sample_id", uuids), uri)
    with pytest.raises(DatasetError, match=r"manifest\.parquet .* other columns"):
        read_manifest(uri)


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "journal/../../secret", "/etc/passwd", "file:///etc/passwd", "a::file:///b"),
        *("", None, 3, ["a"], {"a": 1}),
    ],
)
def test_a_seal_with_names_that_lead_elsewhere_is_refused(tmp_path, name):
    files = [{"name": name, "num_bytes": 6, "sha256": sha256_of(b"secret")}]
    seal = {"fingerprint": "ab" * 32, "files": files, "provenance": {}}
    digest = sha256_of(canonical_json([seal["fingerprint"], files]))
    write_json(str(tmp_path / "seal.json"), seal | {"root_digest": digest})
    with pytest.raises(StoreCorrupt, match=r"seal\.json is damaged\n.*below its store\n"):
        read_seal(str(tmp_path))


@pytest.mark.parametrize("uri", ["../../etc/passwd", "a/../../b.avi", ".."])
def test_a_manifest_with_videos_outside_its_root_is_refused(tmp_path, uri):
    manifest = Manifest("toy", ("a",), (VideoRecord("v", uri, 0, "train"),))
    write_manifest(manifest, str(tmp_path / "manifest.parquet"), root="/videos")
    with pytest.raises(DatasetError, match=r"manifest\.parquet names videos .* v is at .*\.\."):
        read_manifest(str(tmp_path / "manifest.parquet"))


def test_an_absolute_path_in_a_manifest_stays_below_its_root(tmp_path):
    manifest = Manifest("toy", ("a",), (VideoRecord("v", "/etc/passwd", 0, "train"),))
    write_manifest(manifest, str(tmp_path / "manifest.parquet"), root="/videos")
    (record,) = read_manifest(str(tmp_path / "manifest.parquet")).records
    assert os.path.normpath(record.uri) == "/videos/etc/passwd"


# --- sizes ----------------------------------------------------------------------------------------


PARSED = {
    "seal.json": lambda folder: read_seal(str(folder)),
    "identity.json": lambda folder: open_for_writing(str(folder), EXAMPLE.spec),
    "config.yaml": lambda folder: load_config(folder / "config.yaml"),
    "train.json": lambda folder: read_json(str(folder / "train.json"), list),
    "checkpoint.json": lambda folder: read_checkpoint(str(folder)),
}


@pytest.mark.parametrize("name", PARSED)
def test_a_gigabyte_is_not_read(name, tmp_path):
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, GIGABYTE)  # a sparse file: it costs nothing
    before = peak_bytes(reset=True)
    with pytest.raises(PipelineError, match=rf"{name}(?s:.*)1,000,000,000 bytes"):
        PARSED[name](tmp_path)
    assert peak_bytes() - before < MAX_GROWTH_BYTES


@pytest.mark.parametrize("name", PARSED)
def test_nesting_without_end_is_refused(name, tmp_path):
    (tmp_path / name).write_text("[" * 10_000)
    with pytest.raises(PipelineError, match=name):
        PARSED[name](tmp_path)


def test_a_sealed_file_that_grew_to_a_gigabyte_is_not_read(tmp_path):
    EXAMPLE.write_store(str(tmp_path))
    opened = open_store(str(tmp_path))
    entry = opened.seal.files[-1]
    os.truncate(tmp_path / entry.name, GIGABYTE)
    before = peak_bytes(reset=True)
    with pytest.raises(StoreCorrupt, match=rf"{entry.name}(?s:.*)found: +1000000000 bytes"):
        opened.verify()
    assert peak_bytes() - before < MAX_GROWTH_BYTES


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_names", [["a"], ["a", "b", "c"]])
def test_weights_that_name_another_number_of_classes_are_refused(
    class_names, tiny_config, tmp_path
):
    path = write_student(tiny_config, tmp_path / "student.safetensors", ["a", "b"], seed=0)
    file = read_weights(path)
    write_weights(path, file.state, file.metadata, class_names=class_names)
    with pytest.raises(WeightsMismatch, match=r"student\.safetensors(?s:.*)head\.weight"):
        load_trained(path)


@pytest.mark.parametrize("text", ["5", "{", "[1, 2]", "[" * 100_000])
def test_class_names_that_are_no_list_of_names_are_refused(text, tmp_path):
    path = str(tmp_path / "student.safetensors")
    write_weights(path, {"a": torch.ones(2)}, {"class_names": text})
    with pytest.raises(WeightsMismatch, match=r"student\.safetensors must name its classes"):
        read_weights(path)
