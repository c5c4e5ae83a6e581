"""Frame stores: whole, resumable, equal from any writer, and refused when they are not right."""

from __future__ import annotations

import multiprocessing
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.schema import VideoLimits
from pipeline.dataset.manifest import VideoRecord, write_manifest
from pipeline.errors import (
    FingerprintMismatch,
    Status,
    StorageUnavailable,
    StoreCorrupt,
    StoreIncomplete,
    VideoDecodeError,
)
from pipeline.frames import prepared, store, video
from pipeline.frames.pictures import resized
from pipeline.frames.prepared import split_batch_uri
from pipeline.frames.source import frames_of, read_source
from pipeline.frames.store import frames_identity, open_frame_store, plan_frame_store
from pipeline.storage.locks import JOB_VARIABLE
from pipeline.storage.sealed.store import finished_units, fragment_name, open_for_writing
from pipeline.storage.sealed.tables import encode_table

LIMITS = VideoLimits()
FIRST_FILE = "frames-00000.arrow"


def damaged(sealed_root: Path, tmp_path: Path, name: str = FIRST_FILE) -> tuple[Path, Path]:
    """Copy a store, to damage the file that comes back with it."""
    root = tmp_path / "frames"
    shutil.copytree(sealed_root, root)
    return root, root / name


def first_record(root: Path | str) -> VideoRecord:
    return open_frame_store(str(root)).manifest.records[0]


def read(record: VideoRecord, *, verify: bool = True) -> list[int]:
    found = frames_of(record, range(record.num_frames), LIMITS, verify=verify)
    return [index for index, _ in found]


# --- content ------------------------------------------------------------------------------------


def test_the_prepared_manifest_is_that_of_the_videos_but_for_the_frames(example, sealed_root):
    prepared = open_frame_store(str(sealed_root)).manifest
    for ours, theirs in zip(prepared.records, example.videos.records, strict=True):
        for name in ("sample_id", "label", "split", "group", "status", "reason"):
            assert getattr(ours, name) == getattr(theirs, name)
    assert [record.num_frames for record in prepared.records] == [12, 9, 12, 0, 12]
    good = [record for record in prepared.records if record.good]
    assert {(record.width, record.height, record.codec) for record in good} == {
        (48, 32, "prepared")
    }
    assert [split_batch_uri(record.uri)[1] for record in good] == [0, 1, 2, 0]
    assert prepared.digest != example.videos.digest


def test_every_candidate_is_the_frame_it_says(example, sealed_root, read_number):
    store = open_frame_store(str(sealed_root))
    original, record = example.videos.records[0], store.manifest.records[0]
    indices = example.prepared(0).frame_indices
    expected = dict(video.frames_of(original, indices, LIMITS))
    found = list(frames_of(record, [7, 2, 7, *range(12)], LIMITS))
    assert [index for index, _ in found] == list(range(12))  # each once, in increasing order
    for index, frame in found:
        assert read_number(frame) == indices[index]
        difference = frame.astype(int) - resized(expected[indices[index]], 32, 48)
        assert np.abs(difference).mean() < 4


def test_a_moved_store_is_the_same_store(sealed_root, tmp_path):
    root, _ = damaged(sealed_root, tmp_path)
    moved = open_frame_store(str(root))
    assert moved.manifest.digest == open_frame_store(str(sealed_root)).manifest.digest
    assert moved.manifest.records[0].uri.startswith(str(root))
    assert len(read(moved.manifest.records[0])) == 12


def test_any_arrow_reader_opens_a_file(sealed_root):
    with pa.ipc.open_file(sealed_root / FIRST_FILE) as reader:
        table = reader.read_all()
    assert table.column_names == ["sample_id", "frame_index", "jpeg"]
    assert table.num_rows == 12 + 9 + 12


def test_a_remote_store_is_mirrored_and_checked(example, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(prepared, "MIRRORS", tmp_path / "mirrors")
    root = f"memory://{uuid.uuid4().hex}/frames"
    example.write_store(root)
    record = first_record(root)
    assert len(read(record)) == 12
    (copy,) = (tmp_path / "mirrors" / "frames").glob("*.arrow")
    files = fsspec.filesystem("memory")
    files.pipe_file(f"{root}/frames-00001.arrow", b"x" + files.cat_file(f"{root}/{FIRST_FILE}")[1:])
    last = open_frame_store(root).manifest.records[-1]
    with pytest.raises(StoreCorrupt, match="00001"):
        read(last)
    assert [copy] == list((tmp_path / "mirrors" / "frames").glob("*.arrow"))

    whole = copy.read_bytes()
    flip_a_byte(copy)
    monkeypatch.setenv(JOB_VARIABLE, "next")
    assert len(read(record, verify=False)) == 12
    assert f"{copy} is damaged; copying {root}/{FIRST_FILE} again" in caplog.text
    assert copy.read_bytes() == whole


# --- making -------------------------------------------------------------------------------------


def test_order_of_units_and_second_runs_change_nothing(example, sealed_root, tmp_path):
    seal = example.write_store(str(tmp_path), backwards=True)
    assert seal.root_digest == open_frame_store(str(sealed_root)).root_digest
    assert example.write_store(str(tmp_path)) == seal


def test_what_is_missing_is_named(example, tmp_path):
    root = str(tmp_path)
    assert open_for_writing(root, example.spec) is None
    example.write_unit(root, 1)
    assert finished_units(root) == {1}
    with pytest.raises(StoreIncomplete, match="unit 0"):
        example.seal(root)
    with pytest.raises(StoreIncomplete, match=r"jobs/prepare_frames\.py"):
        open_frame_store(root)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"quality": 80}, "frames.quality: store 90, config 80"),
        ({"short_side": 48}, "frames.short_side: store 32, config 48"),
        ({"num_candidates": 16}, "frames.num_candidates: store 12, config 16"),
        ({"videos_per_unit": 3}, "layout.videos_per_unit: store 2, config 3"),
    ],
)
def test_other_frames_at_the_same_place_are_refused(example, sealed_root, setting, words):
    other = plan_frame_store(example.config(**setting), example.videos)
    with pytest.raises(FingerprintMismatch, match=words):
        open_for_writing(str(sealed_root), other)


def test_frames_of_other_videos_are_refused(example, sealed_root):
    first, *rest = example.videos.records
    videos = replace(example.videos, records=(replace(first, sha256="00"), *rest))
    with pytest.raises(FingerprintMismatch, match=r"dataset\.manifest_digest"):
        open_frame_store(str(sealed_root)).check_identity(frames_identity(example.config(), videos))


def test_a_fragment_from_before_there_were_notes_is_refused_by_name(example, tmp_path):
    root = str(tmp_path)
    example.write_unit(root, 0)
    path = tmp_path / fragment_name(0)
    path.write_bytes(encode_table(pq.read_table(path).drop_columns("notes")))
    with pytest.raises(StoreCorrupt, match=r"notes: string(.|\n)*Delete it if an older version"):
        store.read_fragment(root, example.spec, 0)


def test_groups_are_those_of_the_videos_manifest(example, sealed_root, tmp_path):
    """Correcting groups and indexing again needs no new frames."""
    first, *rest = example.videos.records
    videos = replace(example.videos, records=(replace(first, group="another tape"), *rest))
    config = example.config(source="prepared", uri=str(sealed_root))
    config = config.model_copy(update={"artefacts": str(tmp_path)})
    write_manifest(videos, config.manifest_uri, root="/videos")
    prepared = read_source(config)
    assert prepared.records[0].group == "another tape"
    assert prepared.digest == open_frame_store(str(sealed_root)).manifest.digest


# --- damage -------------------------------------------------------------------------------------


def test_a_changed_jpeg_is_found_by_the_next_job_or_where_its_video_is_verified(
    sealed_root, tmp_path, monkeypatch
):
    root, path = damaged(sealed_root, tmp_path)
    record = first_record(root)
    monkeypatch.setenv(JOB_VARIABLE, "first")
    read(record, verify=False)
    flip_a_byte(path)
    read(record, verify=False)  # this job has verified the file already, for all its processes
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert len(pool.apply(read, (record,), {"verify": False})) == 12
    with pytest.raises(VideoDecodeError, match="prepare the frames again") as caught:
        read(record)
    assert caught.value.status == Status.CHANGED
    monkeypatch.setenv(JOB_VARIABLE, "next")
    with pytest.raises(StoreCorrupt, match=f"{path} is damaged"):
        read(record, verify=False)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8\xff")  # of the first JPEG
    content[start + 700] ^= 1
    path.write_bytes(content)


def test_a_missing_file_is_no_source(sealed_root, tmp_path):
    root, path = damaged(sealed_root, tmp_path)
    path.unlink()
    with pytest.raises(VideoDecodeError) as caught:
        read(first_record(root))
    assert caught.value.status == Status.NOT_FOUND


def test_a_wanted_frame_that_is_not_there_is_an_error(sealed_root):
    record = first_record(sealed_root)
    with pytest.raises(VideoDecodeError) as caught:
        list(frames_of(record, [12], LIMITS))
    assert caught.value.status == Status.TOO_SHORT
    with pytest.raises(VideoDecodeError, match="none at 9"):
        read(replace(record, uri=record.uri.replace("#0", "#9")))


def test_a_machine_that_can_make_no_lock_is_no_bad_video(sealed_root, tmp_path, monkeypatch):
    (tmp_path / "mirrors").touch()  # a file, below which there can be no folder
    monkeypatch.setattr(prepared, "MIRRORS", tmp_path / "mirrors")
    monkeypatch.setenv(JOB_VARIABLE, "another job")
    with pytest.raises(StorageUnavailable, match=r"mirrors.*TMPDIR.* cannot be written"):
        read(first_record(sealed_root))
