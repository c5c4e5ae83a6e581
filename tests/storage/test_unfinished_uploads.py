"""Uploads in parts that nobody ended are found and aborted; what lives or lies elsewhere stays."""

import math
from pathlib import Path

from pipeline.stages.unfinished_uploads import abort_upload, find_uploads
from pipeline.storage import files
from tests.s3_server import start_upload


def found_below(uri: str, *, started_before: float = math.inf) -> list[tuple[str, str, int]]:
    found = find_uploads(uri, started_before=started_before)
    return sorted((upload.uri, upload.upload_id, upload.num_bytes) for upload in found)


def test_uploads_below_a_folder_are_found_and_aborted(bucket: str) -> None:
    there = f"{bucket}/ours/runs/snapshot.json"
    first, second = start_upload(there), start_upload(there, b"x")
    start_upload(f"{bucket}/ours-too/file")
    files.write_bytes(there, b"whole")
    assert found_below(f"{bucket}/ours") == sorted([(there, first, 14), (there, second, 1)])
    assert abort_upload(there, first)
    assert found_below(f"{bucket}/ours") == [(there, second, 1)]
    assert not abort_upload(there, first)
    assert files.read_bytes(there) == b"whole"
    assert len(found_below(f"{bucket}/ours-too")) == 1
    assert len(found_below(bucket)) == 2


def test_younger_ones_may_be_alive(bucket: str) -> None:
    start_upload(f"{bucket}/ours/file")
    assert found_below(f"{bucket}/ours", started_before=0.0) == []


def test_a_disk_has_none(tmp_path: Path) -> None:
    files.write_bytes(str(tmp_path / "file"), b"content")
    assert found_below(str(tmp_path)) == []
