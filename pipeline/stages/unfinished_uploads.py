"""Uploads in parts that nobody ended: a bucket charges for them, and no list of files shows them.

What we write goes in one request and leaves none. pyarrow, which writes Ray Train's own record,
and other programs send large files in parts; killed in between, they leave an upload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StorageUnavailable
from pipeline.storage import s3
from pipeline.storage.files import filesystem_of


@dataclass(frozen=True)
class UnfinishedUpload:
    """An upload in parts that has neither been completed nor aborted."""

    uri: str
    upload_id: str
    num_bytes: int


def find_uploads(uri: str, *, started_before: float) -> Iterator[UnfinishedUpload]:
    """Find those of files below ``uri``; none on a disk, or where a server has no such uploads.

    ``started_before`` is in seconds since 1970; the server's clock says when one began.
    """
    filesystem, path = filesystem_of(uri)
    if not hasattr(filesystem, "call_s3"):
        return
    bucket, _, folder = path.partition("/")
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    for found in _listed(filesystem, path, Bucket=bucket, Prefix=prefix):
        there = f"{bucket}/{found['Key']}"
        if found["Initiated"].timestamp() < started_before:
            upload = {"Bucket": bucket, "Key": found["Key"], "UploadId": found["UploadId"]}
            parts = s3.s3_request(filesystem, "list_parts", there, **upload)
            num_bytes = sum(part["Size"] for part in parts.get("Parts", ()))
            name = filesystem.unstrip_protocol(there)
            yield UnfinishedUpload(name, found["UploadId"], num_bytes)


def abort_upload(uri: str, upload_id: str) -> bool:
    """Abort one, which deletes its parts; return whether it was there."""
    filesystem, path = filesystem_of(uri)
    bucket, _, key = path.partition("/")
    upload = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
    try:
        s3.s3_request(filesystem, "abort_multipart_upload", path, **upload)
    except FileNotFoundError:
        return False
    return True


def _listed(filesystem: Any, path: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    place: dict[str, str] = {}
    while True:
        try:
            answer = s3.s3_request(filesystem, "list_multipart_uploads", path, **arguments, **place)
        except StorageUnavailable as error:
            if s3.has_no(error):
                return
            raise
        yield from answer.get("Uploads", ())
        if not answer.get("IsTruncated"):
            return
        place = {
            "KeyMarker": answer["NextKeyMarker"],
            "UploadIdMarker": answer["NextUploadIdMarker"],
        }
