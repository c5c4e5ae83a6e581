"""A real S3 server on loopback, and a proxy before it that breaks what passes."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import s3fs

from tests.loopback import free_port, wait_until_it_answers

START_SECONDS = 60.0
ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "501": (501, "NotImplemented"),
    "InvalidAccessKeyId": (403, "InvalidAccessKeyId"),
    "SignatureDoesNotMatch": (403, "SignatureDoesNotMatch"),
    "RequestTimeTooSkewed": (403, "RequestTimeTooSkewed"),
    "ExpiredToken": (400, "ExpiredToken"),
    "AuthorizationHeaderMalformed": (400, "AuthorizationHeaderMalformed"),
}
SERVER = "DVFLNET_TEST_S3_SERVER"  # which of ours runs: moto, by default, or rclone
ANOTHER_SERVER = (
    "DVFLNET_TEST_S3_ENDPOINT"  # runs the same tests on it, with the user's credentials
)
# What clients of our own server read. Nothing else of this machine's may decide how they behave.
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "an-id",
    "AWS_SECRET_ACCESS_KEY": "a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def is_rclone() -> bool:
    """Whether ours is rclone: buckets are folders, and signatures are checked."""
    return os.environ.get(SERVER) == "rclone"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Serve S3 from memory to whoever comes, or from ``folder`` by rclone; yield the endpoint."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    command = _rclone if is_rclone() else _moto
    with open(folder / "s3-server.log", "wb") as log:
        words = command(urlsplit(endpoint).port, folder)
        server = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        wait_until_it_answers(endpoint, server, seconds=START_SECONDS)
        yield endpoint
    finally:
        server.terminate()
        server.wait(30)


def _moto(port: int | None, folder: Path) -> list[str]:
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def _rclone(port: int | None, folder: Path) -> list[str]:
    (folder / "buckets").mkdir()
    key = f"{SETTINGS['AWS_ACCESS_KEY_ID']},{SETTINGS['AWS_SECRET_ACCESS_KEY']}"
    options = ["--config", os.devnull, "--auth-key", key, "--addr", f"127.0.0.1:{port}"]
    rclone = Path(sys.executable).with_name("rclone")
    return [str(rclone), "serve", "s3", *options, str(folder / "buckets")]


@contextlib.contextmanager
def environment_for(endpoint: str) -> Iterator[None]:
    """Make this process, and those it starts, clients of an endpoint."""
    before = dict(os.environ)
    settings = {} if ANOTHER_SERVER in before else SETTINGS
    os.environ.update(settings | {"AWS_ENDPOINT_URL": endpoint})
    s3fs.S3FileSystem.clear_instance_cache()  # instances keep the endpoint that they began with
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()


def make_bucket() -> str:
    """Create a bucket of a new name where the environment leads; return its URI."""
    name = f"dvflnet-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().call_s3("create_bucket", Bucket=name)
    return f"s3://{name}"


class FaultProxy:
    """Passes HTTP requests on to an S3 server, and breaks the next ones as it is told.

    Faults: a status of ``ERRORS``; ``reset`` before the server saw the request; ``lost``, a reset
    after it did; ``hang``; ``slow``, an answer that never ends; ``cut``, half of the body;
    ``unconditional``, passed on without the condition of the put.
    """

    def __init__(self, endpoint: str) -> None:
        self.upstream = urlsplit(endpoint).netloc
        self.fault, self.times, self.num_requests = "", 0, 0
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def inject(self, fault: str, times: int = 1_000_000) -> None:
        """Break the next ``times`` requests; count requests from here."""
        with self._lock:
            self.fault, self.times, self.num_requests = fault, times, 0

    def next_fault(self) -> str:
        """Return what happens to the request that came in."""
        with self._lock:
            self.num_requests += 1
            self.times -= 1
            return self.fault if self.times >= 0 else ""

    def close(self) -> None:
        """Let everything go that hangs, and end."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # clients give up
            super().handle()

    def answer(self) -> None:
        proxy: FaultProxy = self.server.proxy  # type: ignore[attr-defined]
        body = self._read_body()
        fault = proxy.next_fault()
        if fault == "unconditional":
            del self.headers["If-None-Match"]
        if fault == "501" and "If-None-Match" not in self.headers:
            fault = ""
        if fault == "reset":
            self._reset()
        elif fault == "hang":
            proxy.ended.wait()
            self._reset()
        elif fault in ERRORS:
            status, code = ERRORS[fault]
            error = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
            self._send(status, {}, error.encode())
        else:
            self._pass_on(proxy, body, fault)

    def _read_body(self) -> bytes:
        """Read what comes in one piece, or in chunks, as from pyarrow; it goes on in one."""
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        del self.headers["Transfer-Encoding"]
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def _pass_on(self, proxy: FaultProxy, body: bytes, fault: str) -> None:
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        with contextlib.closing(upstream):
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        if fault == "lost":
            self._reset()
        elif fault == "slow":
            self._trickle(proxy)
        else:
            self._send(answer.status, dict(answer.headers), content, cut=fault == "cut")

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
    ) -> None:
        if self.command != "HEAD":
            headers |= {"Content-Length": str(len(content))}
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self._reset()

    def _trickle(self, proxy: FaultProxy) -> None:
        """Send a header a byte at a time, faster than any time-out between two bytes."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        while not proxy.ended.wait(0.05):
            self.wfile.write(b".")

    def _reset(self) -> None:
        """Close the connection as a crash does: with a reset, and without an answer."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
