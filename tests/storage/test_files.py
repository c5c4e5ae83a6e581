"""One door to storage: whole files or none, here and elsewhere."""

import contextlib
import os
import resource
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import StorageUnavailable
from pipeline.storage.files import (
    absolute_uri,
    create_bytes,
    exists,
    is_local,
    join_uri,
    list_names,
    list_tree,
    local_copy,
    read_bytes,
    read_json,
    readable_json,
    sha256_of,
    size_bytes,
    write_bytes,
    write_json,
)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Refuse this process any file of over a page, as a full disk would."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # SIGXFSZ: Python ignores it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(params=["local", "memory", "s3"])
def root(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "deep" / "folder")
        return
    if request.param == "s3":
        yield join_uri(request.getfixturevalue("bucket"), "deep", "folder")
        return
    uri = f"memory://{uuid.uuid4().hex}"
    yield uri
    filesystem, path = fsspec.core.url_to_fs(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def test_what_is_written_is_read(root):
    uri = join_uri(root, "a", "b.bin")
    assert not exists(uri)
    write_bytes(uri, b"one")
    assert exists(uri)
    assert (read_bytes(uri), size_bytes(uri)) == (b"one", 3)


def test_write_replaces_the_whole_file(root):
    uri = join_uri(root, "a.bin")
    write_bytes(uri, b"long content")
    write_bytes(uri, b"short")
    assert read_bytes(uri) == b"short"
    assert list_names(root) == ["a.bin"]


@pytest.mark.parametrize("publish", [write_bytes, create_bytes])
def test_a_full_disk_is_named_and_leaves_nothing(publish, tmp_path):
    path = str(tmp_path / "new" / "a.bin")
    with full_disk(), pytest.raises(StorageUnavailable, match="File too large") as caught:
        publish(path, bytes(10_000))
    assert path in str(caught.value)
    assert "bytes are free" in str(caught.value)
    assert list_names(str(tmp_path / "new")) == []
    publish(path, bytes(10_000))


def test_create_refuses_to_replace(root):
    uri = join_uri(root, "a.bin")
    assert create_bytes(uri, b"first")
    assert not create_bytes(uri, b"second")
    assert read_bytes(uri) == b"first"
    assert list_names(root) == ["a.bin"]


def test_empty_content_is_content(root):
    uri = join_uri(root, "empty")
    assert create_bytes(uri, b"")
    assert not create_bytes(uri, b"x")
    assert read_bytes(uri) == b""


def test_missing_files_say_so(root):
    for read in (read_bytes, size_bytes):
        with pytest.raises(FileNotFoundError):
            read(join_uri(root, "nothing"))
    with pytest.raises(FileNotFoundError), local_copy(join_uri(root, "nothing")) as path:
        path.read_bytes()


def test_any_file_can_be_had_as_a_path(root):
    uri = join_uri(root, "a", "b.bin")
    write_bytes(uri, b"content")
    with local_copy(uri) as path:
        assert (path.name, path.read_bytes()) == ("b.bin", b"content")
    assert path.exists() == is_local(uri)
    assert exists(uri)


def test_names_are_sorted_and_only_those_directly_below(root):
    for name in ("b", "a/inner", "c", "ä"):
        write_bytes(join_uri(root, *name.split("/")), b"x")
    assert list_names(root) == ["a", "b", "c", "ä"]
    assert list_names(join_uri(root, "a")) == ["inner"]
    assert list_names(join_uri(root, "none")) == []


def test_names_are_fresh(root):
    write_bytes(join_uri(root, "a"), b"x")
    assert list_names(root) == ["a"]
    write_bytes(join_uri(root, "b"), b"x")
    assert list_names(root) == ["a", "b"]


def test_json_there_and_back(root):
    value = {"b": [1, 2.5, None], "a": "ü"}
    write_json(join_uri(root, "v.json"), value)
    assert read_json(join_uri(root, "v.json")) == value
    assert readable_json(value).startswith(b'{\n  "a"')
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# --- all or nothing, locally --------------------------------------------------------------------


@pytest.mark.parametrize("publish", [write_bytes, create_bytes])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(publish, tmp_path):
    uri = str(tmp_path / "a.bin")
    write_bytes(uri, b"old")
    with pytest.raises(TypeError):
        publish(uri, "text is not bytes")
    assert read_bytes(uri) == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_folder_in_the_way_leaves_nothing_else(tmp_path):
    (tmp_path / "taken" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write_bytes(str(tmp_path / "taken"), b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_of_many_creators_one_wins(tmp_path):
    uri, won = str(tmp_path / "a.bin"), []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if create_bytes(uri, bytes([number]) * 1000):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_bytes(uri) == bytes(won) * 1000
    assert os.listdir(tmp_path) == ["a.bin"]


def test_readers_see_one_whole_file_or_the_other(tmp_path):
    uri, contents = str(tmp_path / "a.bin"), {b"a" * 300_000, b"b" * 500_000}
    write_bytes(uri, b"a" * 300_000)
    done = threading.Event()

    def write() -> None:
        for _ in range(15):
            for content in contents:
                write_bytes(uri, content)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert read_bytes(uri) in contents
    writer.join()


# --- names --------------------------------------------------------------------------------------


def test_relative_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert absolute_uri("a/../b") == str(tmp_path / "b")
    assert absolute_uri("~/b") == "/home/somebody/b"
    assert absolute_uri("/b") == "/b"
    assert absolute_uri("s3://bucket/b") == "s3://bucket/b"


def test_joining_knows_one_slash():
    assert join_uri("/a/", "b", "c") == "/a/b/c"
    assert join_uri("s3://a", "b") == "s3://a/b"


@pytest.mark.parametrize("uri", ["/a/b", "a", "file:///a"])
def test_paths_are_local(uri):
    assert is_local(uri)


@pytest.mark.parametrize(
    "uri", ["memory://a", "s3://a/b", "http://host:5000", "postgresql://host/db"]
)
def test_other_places_are_not_local(uri):
    assert not is_local(uri)


def test_published_files_can_be_read_by_others(tmp_path: Path):
    """As other files of the user can: a temporary file of ``tempfile`` would be private."""
    write_bytes(str(tmp_path / "a"), b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    assert list_tree(str(tmp_path), follow_links=True) == ["a/b/1", "link/b/1"]
    assert list_tree(str(tmp_path / "none"), follow_links=True) == []
