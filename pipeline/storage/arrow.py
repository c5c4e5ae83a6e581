"""A bucket as a pyarrow filesystem, for Ray Train's checkpoints.

Arrow's own S3 filesystem puts a key with a trailing slash for every folder, which some servers
refuse. It ignores fsspec's endpoint and has no deadline. This one makes no folders, and every call
goes through :mod:`pipeline.storage.files`, with its deadline and its error text.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileSystemHandler, FileType, PyFileSystem

from pipeline.storage import files, s3


def arrow_filesystem(uri: str) -> tuple[FileSystem | None, str]:
    """Return what ``ray.train.RunConfig`` takes as ``storage_filesystem`` and ``storage_path``.

    Outside of buckets that is None, which is Ray's own choice, and ``uri`` as it is.
    """
    if not files.is_in_bucket(uri):
        return None, uri
    return PyFileSystem(BucketHandler(uri.partition("://")[0])), files.filesystem_of(uri)[1]


@dataclass(frozen=True)
class BucketHandler(FileSystemHandler):  # type: ignore[misc]  # pyarrow.fs has no types
    """The filesystem calls that Ray Train makes. It travels to Ray's workers by pickle.

    A folder is what the names of files imply: making one does nothing, and an empty one is absent.
    """

    scheme: str

    def get_type_name(self) -> str:
        return f"dvflnet+{self.scheme}"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        found = [file for file in files.list_files(self._uri(selector.base_dir)) if file.name]
        if not found and not selector.allow_not_found:
            raise FileNotFoundError(self._uri(selector.base_dir))
        sizes: dict[str, int | None] = {
            str(folder): None for file in found for folder in PurePosixPath(file.name).parents[:-1]
        }
        sizes |= {file.name: file.num_bytes for file in found}
        base = selector.base_dir.rstrip("/")
        return [
            FileInfo(f"{base}/{name}", _type(num_bytes), size=num_bytes)
            for name, num_bytes in sorted(sizes.items())
            if selector.recursive or "/" not in name
        ]

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def delete_dir(self, path: str) -> None:
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        uri = self._uri(path)
        names = files.list_tree(uri)
        if not names and not missing_dir_ok:
            raise FileNotFoundError(uri)
        for name in names:
            files.delete(files.join_uri(uri, name))

    def delete_root_dir_contents(self) -> None:
        raise io.UnsupportedOperation("a whole storage is never emptied")

    def delete_file(self, path: str) -> None:
        files.delete(self._uri(path))

    def move(self, src: str, dest: str) -> None:
        raise io.UnsupportedOperation("files in a bucket are not moved")

    def copy_file(self, src: str, dest: str) -> None:
        files.write_bytes(self._uri(dest), files.read_bytes(self._uri(src)))

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(files.read_bytes(self._uri(path)))

    open_input_file = open_input_stream

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        return pa.PythonFile(WholeFile(self._uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.NativeFile:
        raise io.UnsupportedOperation("files in a bucket are written whole")

    def _info(self, path: str) -> FileInfo:
        filesystem, key = files.filesystem_of(self._uri(path))
        try:
            facts = s3.call(filesystem, "info", key)
        except FileNotFoundError:
            return FileInfo(path, FileType.NotFound)
        num_bytes = None if facts["type"] == "directory" else facts["size"]
        return FileInfo(path, _type(num_bytes), size=num_bytes)

    def _uri(self, path: str) -> str:
        return f"{self.scheme}://{path}"


def _type(num_bytes: int | None) -> FileType:
    return FileType.Directory if num_bytes is None else FileType.File


class WholeFile:
    """An output stream that publishes the whole file at close, by one put.

    It publishes nothing if it is never closed, as when an Arrow copy fails, or if an exception ends
    the ``with`` block around it. Arrow closes the stream in that case, too, so ``close`` looks for
    an exception that was not yet there when the stream was opened.

    It is no ``io.BytesIO``, which closes itself when it is dropped.
    """

    def __init__(self, uri: str) -> None:
        self.closed = False
        self._uri, self._content = uri, bytearray()
        self._exception_before = sys.exc_info()[1]

    def write(self, content: bytes) -> int:
        self._content += content
        return len(content)

    def close(self) -> None:
        exception = sys.exc_info()[1]
        ended_well = exception is None or exception is self._exception_before
        if not self.closed and ended_well:
            files.write_bytes(self._uri, bytes(self._content))
        self.closed = True
