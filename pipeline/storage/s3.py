"""S3 through s3fs, as a client that asks once and nothing else: no caches, no globbing, keys are taken verbatim.

Who retries what, stated once. aiohttp: a request whose connection was closed under it, once and at once. botocore and
s3fs: nothing. `patience.py`: what may pass, with fewer requests in flight, for as long as it says; what that is,
`s3_errors.py` says: HTTP 5xx and 429, throttling by any code, refused, dropped and silent connections, cut bodies.
This file: credentials that are refused are looked up again, by botocore's providers, 3 times within 6 s.

One request is given up after 5 s without a connection or 15 s of silence, an upload 1 s later for each 64 KiB, a body
that trickles after 5 minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import s3fs
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import (
    IncompleteReadError,
    ReadTimeoutError,
)
from fsspec.asyn import sync

from pipeline.errors import CredentialsLost, ObjectUnreadable
from pipeline.storage import patience
from pipeline.storage.host import Fault
from pipeline.storage.remote import Remote
from pipeline.storage.s3_errors import Refused, explained
from pipeline.storage.store import Entry, Store, TooLarge
from pipeline.storage.uris import below, scheme_of

TIMEOUT_S, BODY_S = 15, 300
LOOK_UPS = (0.0, 2.0, 4.0)  # seconds to wait before the credentials are looked up again
SLOWEST = 64 << 10  # bytes a second of an upload
WHOLE_PUT = 64 << 20  # bytes; s3fs sends larger files in parts (from 100 MiB on), which is as atomic
T = TypeVar("T")


class _Session(AIOHTTPSession):  # type: ignore[misc]  # comes without types
    """aiohttp's session; the reply timeout starts after the upload's time allowance.

    By itself aiohttp waits for ever on a server that takes no body.
    """

    async def send(self, request: Any) -> Any:
        """The reply to one request, but for the reply's body; raises ReadTimeoutError."""
        if not request.body:
            return await super().send(request)
        # Over https botocore sends in chunks, with the checksum behind them.
        size = int(request.headers.get("X-Amz-Decoded-Content-Length") or request.headers["Content-Length"])
        try:
            return await asyncio.wait_for(super().send(request), TIMEOUT_S + size / SLOWEST)
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url) from error


class _Client(s3fs.S3FileSystem):  # type: ignore[misc]  # comes without types
    retries = 1


@functools.cache
def client() -> s3fs.S3FileSystem:
    """The one S3 client of this process; endpoint, region and credentials come from the AWS environment."""
    return _Client(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "http_session_cls": _Session,
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": TIMEOUT_S,
            "max_pool_connections": 64,
        },
    )


def store(_scheme: str) -> Store:
    """The store of `s3://` and `s3a://`."""
    return S3()


class S3(Remote):
    """The objects of all buckets that the environment's credentials may use."""

    def unfit(self, output: str, *, shared: bool) -> str | None:
        """A bucket must be named; whether it can be written shows at the first object."""
        return None if _split(output)[0] else "it names no bucket"

    def listing(self, prefix: str) -> Iterator[Entry]:
        """Page by page, in the order of the keys' UTF-8 bytes."""
        bucket, key = _split(prefix)
        root = f"{scheme_of(prefix)}://{bucket}"
        page: dict[str, Any] = {"IsTruncated": True}
        more: dict[str, str] = {}
        while page.get("IsTruncated"):
            page = _asked(prefix, functools.partial(_page, bucket, below(key, ""), more))
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield Entry(f"{root}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
            more = {"ContinuationToken": page.get("NextContinuationToken", "")}

    def stat(self, uri: str) -> Entry | None:
        """One HEAD request; none for a bucket, which is no object."""
        if not _split(uri)[1]:
            return None
        try:
            head = _call(uri, "head_object")
        except FileNotFoundError:
            return None
        return Entry(uri, head["ContentLength"], head["ETag"].strip('"'))

    def check_access(self, uri: str) -> None:
        """Ask for the object; any answer but a refusal of the credentials will do."""
        with contextlib.suppress(OSError, ObjectUnreadable):
            try:
                self.stat(uri)
            except PermissionError:  # an answer to HEAD does not say why
                next(self.listing(uri), None)

    def read(
        self, uri: str, start: int | None = None, stop: int | None = None, version: str = "", most: int | None = None
    ) -> bytes:
        """The object's bytes, or those of [start, stop); never short: a cut body is fetched again or raises.

        With `version` (an ETag), ObjectUnreadable where the object has another by now.
        """
        return _asked(uri, lambda: _got(uri, start, stop, version, most), _first_byte)

    def put(self, uri: str, data: bytes) -> None:
        """Write the object whole."""
        bucket, key = _split(uri)
        if len(data) <= WHOLE_PUT:
            _call(uri, "put_object", Body=data)
        else:
            _asked(uri, lambda: client().pipe_file(f"{bucket}/{key}", data))

    def create(self, uri: str, data: bytes) -> bool:
        """Write the object with `If-None-Match: *`."""
        try:
            _call(uri, "put_object", Body=data, IfNoneMatch="*")
        except Refused:
            return False
        return True

    def replace(self, uri: str, data: bytes, version: str) -> bool:
        """Write the object with `If-Match`."""
        try:
            _call(uri, "put_object", Body=data, IfMatch=f'"{version}"')
        except (Refused, FileNotFoundError):
            return False
        return True

    def delete(self, uri: str) -> None:
        """Delete one object; S3 itself does not mind when it is not there."""
        _call(uri, "delete_object")


def _first_byte(uri: str) -> None:
    """Ask once whether an object can be read; raises as an attempt does."""
    _attempted(lambda: _got(uri, 0, 1, ""))


def _split(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` -> (bucket, key), verbatim."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def _page(bucket: str, prefix: str, more: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = client().call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
    return found


def _call(uri: str, method: str, **arguments: Any) -> Any:
    """One S3 request about an object."""
    bucket, key = _split(uri)
    return _asked(uri, lambda: client().call_s3(method, Bucket=bucket, Key=key, **arguments))


def _asked(uri: str, request: Callable[[], T], read: Callable[[str], object] | None = None) -> T:
    """A request made as patiently as `patience.ask` says, credentials looked up again where they are refused.

    Raises FileNotFoundError, PermissionError, ObjectUnreadable, CredentialsLost or PatienceSpent.
    """
    attempt = functools.partial(_attempted, request)
    for pause in LOOK_UPS:
        before = client()._s3
        try:
            return patience.ask(uri, attempt, read)
        except CredentialsLost:
            if patience.is_quick():  # they have only just been looked up
                raise
            time.sleep(pause)
            _look_up_credentials(before)
    return patience.ask(uri, attempt, read)


_looking_up = threading.Lock()


def _look_up_credentials(before: object) -> None:
    """Have botocore's providers asked again, unless another thread has done so since this client was seen."""
    with _looking_up:
        if client()._s3 is before:
            with contextlib.suppress(Fault, CredentialsLost):  # a provider that fails: the next attempt says so
                _attempted(lambda: client().connect(refresh=True))


def _attempted(request: Callable[[], T]) -> T:
    """A request made once; raises Fault for what may pass, else what `explained` makes of the error."""
    try:
        return request()
    except Exception as error:
        raise explained(error) from error


def _got(uri: str, start: int | None, stop: int | None, etag: str, most: int | None = None) -> bytes:
    data: bytes = sync(client().loop, _get, uri, start, stop, etag, most)
    return data


async def _get(uri: str, start: int | None, stop: int | None, etag: str, most: int | None) -> bytes:
    bucket, key = _split(uri)
    span = {} if start is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    span |= {"IfMatch": f'"{etag}"'} if etag else {}
    answer = await client()._call_s3("get_object", Bucket=bucket, Key=key, **span)
    try:
        if most is not None and answer["ContentLength"] > most:
            raise TooLarge(answer["ContentLength"], most)
        data: bytes = await asyncio.wait_for(answer["Body"].read(), timeout=BODY_S)
    finally:
        answer["Body"].close()
    if len(data) != answer["ContentLength"]:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=answer["ContentLength"])
    return data
