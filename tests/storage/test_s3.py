"""An object store that fails: in time, by name, and never in silence."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import s3fs

from pipeline.config.schema import VideoLimits
from pipeline.errors import ConfigError, StorageUnavailable
from pipeline.storage import files, s3
from pipeline.storage.s3 import DEADLINE_VARIABLE
from pipeline.views.decoder import DecodeProcess
from tests.s3_server import FaultProxy, environment_for, is_rclone, make_bucket

SHORT_SECONDS = 0.3


@pytest.fixture(scope="module")
def endpoint(s3_endpoint: str) -> Iterator[FaultProxy]:
    """A proxy, and the environment that leads there."""
    proxy = FaultProxy(s3_endpoint)
    with environment_for(proxy.endpoint):
        yield proxy
    proxy.close()


@pytest.fixture
def proxy(endpoint: FaultProxy) -> FaultProxy:
    """The same, as it is before a test: without faults."""
    endpoint.inject("")
    return endpoint


@pytest.fixture
def uri(proxy: FaultProxy, bucket: str) -> str:
    """URI of a file that is there, in a bucket that is known to refuse replacing it."""
    uri = f"{bucket}/folder/a.bin"
    assert files.create_bytes(uri, b"content")
    assert not files.create_bytes(uri, b"other")
    return uri


def copy(uri: str) -> bytes:
    with files.local_copy(uri) as path:
        return path.read_bytes()


CALLS: dict[str, Callable[[str], object]] = {
    "exists": files.exists,
    "size": files.size_bytes,
    "read": files.read_bytes,
    "copy": copy,
    "write": lambda uri: files.write_bytes(uri, b"content"),
    "create": lambda uri: files.create_bytes(uri, b"content"),
    "names": lambda uri: files.list_names(os.path.dirname(uri)),
    "tree": lambda uri: files.list_tree(os.path.dirname(uri)),
}
ANSWERS = {
    "exists": True,
    "size": 7,
    "read": b"content",
    "copy": b"content",
    "write": None,
    "create": False,
    "names": ["a.bin"],
    "tree": ["a.bin"],
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "HTTP 500"),
        ("503", "HTTP 503"),
        ("reset", "Connection"),
        ("hang", "no answer"),
        ("slow", "no answer"),
    ],
)
def test_no_call_outlasts_its_deadline(call, fault, said, uri, proxy, monkeypatch):
    monkeypatch.setenv(DEADLINE_VARIABLE, str(SHORT_SECONDS))
    proxy.inject(fault)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable) as caught:
        CALLS[call](uri)
    assert SHORT_SECONDS * 0.9 < time.monotonic() - started < SHORT_SECONDS + 1.5
    assert os.path.dirname(uri) in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", ["500", "503", "reset"])
def test_what_passes_is_waited_for(call, fault, uri, proxy):
    proxy.inject(fault, times=1)
    assert CALLS[call](uri) == ANSWERS[call]
    assert proxy.num_requests == 2


def test_a_request_that_is_never_answered_is_made_again(uri, proxy, monkeypatch):
    patient = s3.S3_OPTIONS["config_kwargs"] | {"read_timeout": 0.5}
    monkeypatch.setitem(s3.S3_OPTIONS, "config_kwargs", patient)
    proxy.inject("hang", times=1)
    assert files.read_bytes(uri) == b"content"
    assert proxy.num_requests == 2


@pytest.mark.parametrize("call", ["read", "copy"])
def test_half_an_answer_is_none(call, uri, proxy):
    proxy.inject("cut", times=2)
    assert CALLS[call](uri) == b"content"
    assert proxy.num_requests == 3


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "fault", ["403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"]
)
def test_denied_access_is_said_at_once(call, fault, uri, proxy):
    proxy.inject(fault)
    with pytest.raises(StorageUnavailable, match=r"access denied|refuses") as caught:
        CALLS[call](uri)
    assert os.path.dirname(uri) in str(caught.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    assert proxy.num_requests == 1


@pytest.mark.parametrize("call", ["read", "write", "names"])
@pytest.mark.parametrize("fault", ["ExpiredToken", "AuthorizationHeaderMalformed"])
def test_other_refusals_are_said_at_once(call, fault, uri, proxy):
    proxy.inject(fault)
    with pytest.raises(StorageUnavailable, match=fault):
        CALLS[call](uri)
    assert proxy.num_requests <= 2  # botocore may look for the bucket's region


def test_a_proxy_is_named(uri, proxy, monkeypatch):
    proxy.inject("403")
    monkeypatch.setenv(DEADLINE_VARIABLE, str(SHORT_SECONDS))
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")  # nothing listens there
    s3fs.S3FileSystem.clear_instance_cache()  # a client keeps the proxy that it began with
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:9 .*no_proxy") as caught:
        files.read_bytes(uri)
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(DEADLINE_VARIABLE)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageUnavailable, match="access denied") as caught:
        files.read_bytes(uri)
    assert "no_proxy" not in str(caught.value)


def test_a_put_whose_answer_is_lost_is_not_lost(uri, proxy):
    other = uri.replace("a.bin", "b.bin")
    proxy.inject("lost", times=1)
    files.create_bytes(other, b"content")  # it may say that it was there, for now it is
    assert files.read_bytes(other) == b"content"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            "unconditional",
            marks=pytest.mark.skipif(is_rclone(), reason="it misses a header that was signed"),
        ),
        "501",
    ],
)
def test_a_server_without_conditions_is_named_and_never_replaces(fault, proxy, caplog):
    folder = make_bucket()
    proxy.inject(fault)
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b"):
            assert files.create_bytes(f"{folder}/{name}", b"first")
            assert not files.create_bytes(f"{folder}/{name}", b"second")
            assert files.read_bytes(f"{folder}/{name}") == b"first"
    (warning,) = caplog.messages
    assert folder in warning
    assert "If-None-Match" in warning


def test_a_job_that_goes_on_learns_it_from_what_is_there(proxy, caplog):
    folder = make_bucket()
    files.write_bytes(f"{folder}/a", b"first")  # by a job that was killed
    proxy.inject("501")
    with caplog.at_level(logging.WARNING):
        assert not files.create_bytes(f"{folder}/a", b"first")
    assert "If-None-Match" in caplog.text
    assert files.read_bytes(f"{folder}/a") == b"first"


def test_what_is_there_before_the_server_is_known_is_not_replaced(proxy):
    there = f"{make_bucket()}/a"
    files.write_bytes(there, b"first")
    proxy.inject("unconditional")
    assert not files.create_bytes(there, b"second")
    assert files.read_bytes(there) == b"first"


def test_a_missing_bucket_is_named(s3_endpoint):
    for call in CALLS.values():
        with pytest.raises(StorageUnavailable, match="there is no such bucket"):
            call("s3://nowhere/folder/a.bin")


def test_missing_credentials_are_said_at_once(uri, proxy):
    proxy.inject("")
    with environment_for(proxy.endpoint):
        del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        with pytest.raises(StorageUnavailable, match="Unable to locate credentials"):
            files.read_bytes(uri)
    assert proxy.num_requests == 0


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_deadline_must_be_a_number(text, bucket, monkeypatch):
    monkeypatch.setenv(DEADLINE_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{DEADLINE_VARIABLE}.*{text}"):
        files.read_bytes(f"{bucket}/a")


@pytest.mark.skipif(is_rclone(), reason="its buckets are folders of a disk")
def test_a_folder_that_is_an_object_is_not_in_itself(bucket):
    files.write_bytes(f"{bucket}/folder/", b"")  # as the web page of a bucket makes it
    files.write_bytes(f"{bucket}/folder/a", b"x")
    assert files.list_names(f"{bucket}/folder") == ["a"]
    assert files.list_tree(f"{bucket}/folder") == ["a"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_process_has_its_own_client(method, bucket):
    files.write_bytes(f"{bucket}/a", b"content")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(files.read_bytes, (f"{bucket}/a",)) == b"content"
    assert files.read_bytes(f"{bucket}/a") == b"content"


# --- in decoding processes ----------------------------------------------------------------------


def test_storage_that_fails_is_no_fault_of_the_video(
    proxy, bucket, make_video, make_record, tmp_path: Path, monkeypatch
):
    """And its deadline may be longer than the decoder's."""
    path = make_video(tmp_path / "a.avi", 10)
    files.write_bytes(f"{bucket}/a.avi", path.read_bytes())
    monkeypatch.setattr("pipeline.views.decoder.GRACE_SECONDS", 0)
    monkeypatch.setenv(DEADLINE_VARIABLE, "2")
    limits = VideoLimits(decode_seconds=1)
    record = replace(make_record(path), uri=f"{bucket}/a.avi")
    decoder = DecodeProcess()
    try:
        assert decoder.probe(record, VideoLimits()).good  # starts the child, which takes seconds
        for fault in ("hang", "403"):
            proxy.inject(fault)
            with pytest.raises(StorageUnavailable, match=r"a\.avi"):
                decoder.probe(record, limits)
            proxy.inject("")
            assert decoder.probe(record, VideoLimits()).good
    finally:
        decoder.close()
