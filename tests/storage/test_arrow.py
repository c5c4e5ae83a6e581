"""A bucket as Ray Train sees it: whole files, no folders, our deadline and our errors."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow.fs
import pytest
from pyarrow.fs import FileSelector, FileType

from pipeline.errors import StorageUnavailable
from pipeline.storage import files
from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.s3 import DEADLINE_VARIABLE
from tests.s3_server import FaultProxy, environment_for


def travelled(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The filesystem of a URI as a worker gets it, and the path there."""
    filesystem, path = arrow_filesystem(uri)
    assert filesystem == pickle.loads(pickle.dumps(filesystem))
    return pickle.loads(pickle.dumps(filesystem)), path


def test_ray_chooses_for_itself_on_a_disk(tmp_path):
    assert arrow_filesystem(str(tmp_path)) == (None, str(tmp_path))


def test_a_checkpoint_goes_there_and_comes_back_without_keys_for_folders(bucket, tmp_path: Path):
    filesystem, path = travelled(f"{bucket}/artefacts/runs")
    here, there = tmp_path / "here", f"{path}/student/checkpoint"
    (here / "deep").mkdir(parents=True)
    (here / "weights").write_bytes(b"weights")
    (here / "deep" / "empty").write_bytes(b"")
    filesystem.create_dir(there, recursive=True)
    pyarrow.fs.copy_files(str(here), there, destination_filesystem=filesystem)
    keys = ["artefacts/runs/student/checkpoint/" + name for name in ("deep/empty", "weights")]
    assert files.list_tree(bucket) == keys

    pyarrow.fs.copy_files(there, str(tmp_path / "back"), source_filesystem=filesystem)
    assert (tmp_path / "back" / "weights").read_bytes() == b"weights"
    assert (tmp_path / "back" / "deep" / "empty").read_bytes() == b""

    filesystem.delete_dir(there)
    assert files.list_tree(bucket) == []


def test_files_and_folders_are_told_apart(bucket):
    filesystem, path = travelled(f"{bucket}/runs")
    files.write_bytes(f"{bucket}/runs/a/deep/b", b"12345")
    files.write_bytes(f"{bucket}/runs/c", b"1")
    paths = [f"{path}/a", f"{path}/c", f"{path}/missing"]
    kinds = [info.type for info in filesystem.get_file_info(paths)]
    assert kinds == [FileType.Directory, FileType.File, FileType.NotFound]

    found = {
        info.path.removeprefix(f"{path}/"): info.size if info.is_file else None
        for info in filesystem.get_file_info(FileSelector(path, recursive=True))
    }
    assert found == {"a": None, "a/deep": None, "a/deep/b": 5, "c": 1}
    shallow = filesystem.get_file_info(FileSelector(path))
    assert [info.base_name for info in shallow] == ["a", "c"]

    assert filesystem.get_file_info(FileSelector(f"{path}/missing", allow_not_found=True)) == []
    for call in (filesystem.delete_dir, filesystem.open_input_stream):
        with pytest.raises(FileNotFoundError):
            call(f"{path}/missing")


def test_a_stream_that_an_exception_ends_publishes_nothing(bucket):
    filesystem, path = travelled(bucket)
    with (
        pytest.raises(TypeError, match="str"),
        filesystem.open_output_stream(f"{path}/a") as stream,
    ):
        stream.writelines([b"half", "no bytes"])
    filesystem.open_output_stream(f"{path}/b").write(b"half")  # and is dropped
    assert files.list_tree(bucket) == []

    try:
        raise ZeroDivisionError
    except ZeroDivisionError:  # another exception, which the stream has nothing to do with
        with filesystem.open_output_stream(f"{path}/c") as stream:
            stream.write(b"who")
            stream.write(b"le")
    with filesystem.open_input_stream(f"{path}/c") as stream:
        assert stream.read() == b"whole"


@pytest.mark.parametrize("fault", ["500", "hang", "403"])
def test_every_call_has_our_deadline_and_our_error(fault, s3_endpoint, bucket, monkeypatch):
    monkeypatch.setenv(DEADLINE_VARIABLE, "0.3")
    proxy = FaultProxy(s3_endpoint)
    with environment_for(proxy.endpoint):
        filesystem, path = travelled(bucket)
        proxy.inject(fault)
        calls = [
            lambda: filesystem.get_file_info(f"{path}/a"),
            lambda: filesystem.get_file_info(FileSelector(path)),
            lambda: filesystem.open_input_stream(f"{path}/a"),
            lambda: filesystem.open_output_stream(f"{path}/a").close(),
            lambda: filesystem.delete_file(f"{path}/a"),
            lambda: filesystem.delete_dir(path),
        ]
        for call in calls:
            with pytest.raises(StorageUnavailable, match=bucket):
                call()
    proxy.close()
