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

from pipeline.errors import StorageUnavailable, StoreCorrupt
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
    read_record,
    size_bytes,
    write_bytes,
    write_json,
    write_record,
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


@pytest.mark.parametrize("name", ["b.bin", "b #1?x=%20%2F ü+&.bin"])
def test_what_is_written_is_read(root, name):
    uri = join_uri(root, "a", name)
    assert not exists(uri)
    write_bytes(uri, b"long content")
    write_bytes(uri, b"one")  # replaces the whole file
    assert exists(uri)
    assert (read_bytes(uri), size_bytes(uri)) == (b"one", 3)
    assert not create_bytes(uri, b"two")
    assert (list_names(join_uri(root, "a")), list_tree(root)) == ([name], [f"a/{name}"])
    with local_copy(uri) as path:
        assert (path.name, path.read_bytes()) == (name, b"one")
    assert path.exists() == is_local(uri)


@pytest.mark.parametrize("publish", [write_bytes, create_bytes])
def test_a_full_disk_is_named_and_leaves_nothing(publish, tmp_path):
    path = str(tmp_path / "new" / "a.bin")
    with full_disk(), pytest.raises(StorageUnavailable, match="File too large") as caught:
        publish(path, bytes(10_000))
    assert path in str(caught.value)
    assert "bytes are free" in str(caught.value)
    assert list_names(str(tmp_path / "new")) == []
    publish(path, bytes(10_000))


def test_missing_files_say_so(root):
    for read in (read_bytes, size_bytes):
        with pytest.raises(FileNotFoundError):
            read(join_uri(root, "nothing"))
    with pytest.raises(FileNotFoundError), local_copy(join_uri(root, "nothing")) as path:
        path.read_bytes()


def test_names_are_sorted_and_only_those_directly_below(root):
    for name in ("b", "a/inner", "c", "ä"):
        write_bytes(join_uri(root, *name.split("/")), b"x")
    assert list_names(root) == ["a", "b", "c", "ä"]
    assert list_names(join_uri(root, "a")) == ["inner"]
    assert list_names(join_uri(root, "none")) == []
    write_bytes(join_uri(root, "d"), b"x")  # listings are fresh
    assert list_names(root) == ["a", "b", "c", "d", "ä"]


def test_a_record_holds_a_digest_of_itself(root):
    uri, values = join_uri(root, "r.json"), {"b": [1, 2.5, None], "a": {"ü": float("inf")}}
    write_record(uri, values)
    assert read_record(uri) == values
    content = read_bytes(uri)
    for before, after in ((b"2.5", b"2.4"), (b'"digest"', b'"digesu"'), (b"{", b"[")):
        write_bytes(uri, content.replace(before, after, 1))
        with pytest.raises(StoreCorrupt, match=r"r\.json"):
            read_record(uri)
    write_json(uri, values)  # as versions before this one did
    assert read_record(uri) == values


# --- all or nothing, locally --------------------------------------------------------------------


@pytest.mark.parametrize("publish", [write_bytes, create_bytes])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(publish, tmp_path):
    uri = str(tmp_path / "a.bin")
    write_bytes(uri, b"old")
    with pytest.raises(TypeError):
        publish(uri, "text is not bytes")
    assert read_bytes(uri) == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


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
    with pytest.raises(ValueError, match="set HOME, or write the whole path"):
        absolute_uri("~nobody-of-this-name/b")

    assert join_uri("/a/", "b", "c") == "/a/b/c"
    assert all(map(is_local, ("/a/b", "a", "file:///a")))
    assert not any(map(is_local, ("memory://a", "s3://a/b", "http://a:5000", "postgresql://a/b")))


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
