"""Calls to an object store: one request at a time, tried again until a deadline.

s3fs tries again around botocore, which tries again itself: together they wait seven minutes for a
server that never answers, and then seldom say why. Here each of them tries once, and one loop
around both tries until the deadline and remembers the last error.

Every call asks fsspec for the file system again: fsspec keeps one a thread, and none over a fork.
Listings are never cached, because other processes write too.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fsspec.asyn import sync

from pipeline.errors import ConfigError, StorageUnavailable

DEADLINE_VARIABLE = "DVFLNET_STORAGE_SECONDS"
DEADLINE_SECONDS = 120.0
LONGEST_PAUSE_SECONDS = 5.0
WARN_AT_ATTEMPT = 5  # a second or so after the first, where the server answers at once

WHOLE_BYTES = 5 * 2**30  # the most that a server takes in one request, and so the largest file
S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "max_concurrency": 1,  # parts that are read one by one may be of two versions of a file
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 15,  # between two bytes
        "retries": {"total_max_attempts": 1},
    },
}

# Errors that may pass at another attempt. So may every status from 500 on but UNSUPPORTED.
PASSING = (408, 409, 429, "RequestTimeout", "IncompleteBody")
UNSUPPORTED = 501

# bucket -> does it honour If-None-Match (create-only puts)?
_REFUSING: dict[str, bool] = {}

log = logging.getLogger(__name__)


def deadline_seconds() -> float:
    """Return how long a call may take, all its attempts together; ConfigError if that is wrong."""
    text = os.environ.get(DEADLINE_VARIABLE, str(DEADLINE_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"{DEADLINE_VARIABLE} must be a number of seconds, found {text!r}")
    return seconds


def call(filesystem: Any, operation: str, path: str, *arguments: Any, **options: Any) -> Any:
    """Run an operation of an asynchronous file system.

    FileNotFoundError if there is no such file; FileExistsError if it was to be created and is
    there; StorageUnavailable if the deadline passes or the server refuses.
    """
    filesystem.retries = 1  # turns off those of s3fs; other file systems ignore it
    attempt = partial(getattr(filesystem, f"_{operation}"), path, *arguments, **options)
    try:
        return sync(filesystem.loop, _persist, filesystem.unstrip_protocol(path), attempt)
    except StorageUnavailable as error:
        if hint := proxy_hint(os.environ.get("AWS_ENDPOINT_URL", "")):
            raise StorageUnavailable(f"{error}\n  It was asked{hint}.") from error.__cause__
        raise


def proxy_hint(url: str) -> str:
    """Name the proxy between this job and a server, if there is one, without its password."""
    server = urlsplit(url)
    proxy = urlsplit(getproxies().get(server.scheme, ""))
    if not proxy.hostname or proxy_bypass(server.netloc):
        return ""
    name = f"{proxy.scheme}://{proxy.hostname}:{proxy.port}"
    return f" through the proxy {name} (name {server.hostname} in no_proxy if none is wanted)"


def exists(filesystem: Any, path: str) -> bool:
    """Return whether there is a file, or anything below it; raises as ``call``."""
    try:
        call(filesystem, "info", path)
    except FileNotFoundError:
        return False
    return True


def put(filesystem: Any, path: str, content: bytes, **options: Any) -> None:
    """Write a whole file in one request; raises as ``call``."""
    call(filesystem, "pipe_file", path, content, chunksize=WHOLE_BYTES, **options)


def create(filesystem: Any, path: str, content: bytes) -> bool:
    """Write a whole file in one request, unless it is there; return whether it was written.

    False may also mean that an attempt of this very call got through and its answer did not, so
    callers who care compare what is there. Raises as ``call``.
    """
    bucket = filesystem.unstrip_protocol(path.partition("/")[0])
    if bucket not in _REFUSING:
        return _create_first(filesystem, path, content, bucket)
    if _REFUSING[bucket]:
        return _put_new(filesystem, path, content)
    if exists(filesystem, path):
        return False
    put(filesystem, path, content)
    return True


def _create_first(filesystem: Any, path: str, content: bytes, bucket: str) -> bool:
    """Create a file and find out whether the server honours the condition, which many ignore.

    The second of two equal puts must be refused. If it is not, it has changed nothing. In a resumed
    job the file may be there already; then one put is enough.
    """
    there = exists(filesystem, path)
    if there and call(filesystem, "cat_file", path) != content:
        return False
    try:
        written = not there and _put_new(filesystem, path, content)
        beaten = not there and not written
        _REFUSING[bucket] = beaten or not _put_new(filesystem, path, content)
    except StorageUnavailable as error:
        if _status(error.__cause__) != UNSUPPORTED:
            raise
        if not there:
            put(filesystem, path, content)
        written, _REFUSING[bucket] = not there, False
    if not _REFUSING[bucket]:
        log.warning(
            "%s has no create-only puts (If-None-Match): two jobs that write to one place at the "
            "same time can replace each other's files there. Run one at a time.",
            bucket,
        )
    return written


def _put_new(filesystem: Any, path: str, content: bytes) -> bool:
    try:
        put(filesystem, path, content, mode="create")
    except FileExistsError:
        return False
    return True


async def _persist(uri: str, attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Try until it works, fails for good or the deadline passes."""
    from botocore.exceptions import BotoCoreError
    from s3fs.core import S3_RETRYABLE_ERRORS

    seconds, found = deadline_seconds(), None
    try:
        async with asyncio.timeout(seconds):
            for number in itertools.count(1):
                try:
                    return await attempt()
                except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
                    found = error
                _raise_if_final(uri, found)
                if number == WARN_AT_ATTEMPT:
                    log.warning("%s: %s; trying again for up to %g s", uri, _said(found), seconds)
                longest = min(0.1 * 2.0 ** min(number, 10), LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # or clients retry in step
    except TimeoutError:
        raise StorageUnavailable(
            f"{uri}: no success within {seconds:g} s\n"
            f"  last found: {_said(found) if found else 'no answer, or one that never ended'}\n"
            "  See that AWS_ENDPOINT_URL is right and the server well, then run the same command "
            f"again.\n  {DEADLINE_VARIABLE} says how long a call may take."
        ) from found


def _raise_if_final(uri: str, found: Exception) -> None:
    """Raise an error of ours if another attempt would fail in the same way."""
    from botocore.exceptions import BotoCoreError, ConnectionError, HTTPClientError

    status, code = _status(found), _code(found)
    if code == "NoSuchBucket":
        raise StorageUnavailable(f"{uri}: there is no such bucket; create it") from found
    if isinstance(found, FileNotFoundError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri) from found
    if isinstance(found, FileExistsError) or status == 412:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), uri) from found
    if isinstance(found, PermissionError):
        raise StorageUnavailable(
            f"{uri}: access denied ({code or found})\n"
            "  See that the credentials in the environment (AWS_ACCESS_KEY_ID, ...) are right and "
            "may do this.\n  Without the right to list a bucket, keys that are not there look so."
        ) from found
    refused = status is not None and (status < 500 or status == UNSUPPORTED)
    if refused and status not in PASSING and code not in PASSING:
        raise StorageUnavailable(f"{uri}: the server refuses this: {_said(found)}") from found
    lost = isinstance(found, ConnectionError | HTTPClientError)
    if isinstance(found, BotoCoreError) and not lost:
        raise StorageUnavailable(
            f"{uri}: {found}\n  Credentials come from the environment: AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, or what else botocore knows."
        ) from found


def _said(found: Exception) -> str:
    status = _status(found)
    if status is None:
        return f"{type(found).__name__}: {found}"
    return f"HTTP {status} {_code(found)}: {found}"


def _status(found: BaseException | None) -> int | None:
    """Return the HTTP status behind an error that s3fs has translated."""
    if isinstance(found, StorageUnavailable):
        found = found.__cause__
    response = getattr(getattr(found, "__cause__", None), "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def _code(found: BaseException) -> str:
    response = getattr(found.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
