"""S3 through s3fs, as a retrying client and nothing else: no caches, no globbing, keys are taken verbatim.

Who retries what, stated once. aiohttp: a request whose connection was closed under it, once and at once. botocore:
nothing. s3fs: each request, 10 times with 0.1 s to 12 s between (28 s in all), on HTTP 5xx, throttling, refused and
dropped connections. This file: a body that was cut or stalled, 5 times. A request that hangs is given up after 15 s,
an upload 1 s later for each 64 KiB. So a permanent failure is known within 30 s, a permanent stall within 3 minutes, or
10 times what an upload may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import aiohttp
import s3fs
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ReadTimeoutError
from fsspec.asyn import sync
from s3fs.core import set_custom_error_handler

from pipeline.errors import CredentialsLost, ObjectUnreadable
from pipeline.storage.remote import Remote, is_quick
from pipeline.storage.store import Entry, Store
from pipeline.storage.uris import below, scheme_of

TRIES, QUICK_TRIES, BODY_TRIES, TIMEOUT_S = 10, 3, 5, 15
SLOWEST = 64 << 10  # bytes a second of an upload
WHOLE_PUT = 64 << 20  # bytes; s3fs sends larger files in parts (from 100 MiB on), which is as atomic
CREDENTIAL_CODES = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "RequestTimeTooSkewed",
}  # fmt: skip
REPLACED = {"PreconditionFailed", "412"}
TAKEN = REPLACED | {"ConditionalRequestConflict"}
CUT = (BotoCoreError, aiohttp.ClientError, OSError, asyncio.TimeoutError)  # a body that breaks off, by whoever sees it


def _worth_retrying(error: Exception) -> bool:
    """Whether another try may help; s3fs by itself knows only throttling and dropped connections."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code")
        return status >= 500 or status == 429 or code in {"RequestTimeout", "SlowDown", "Throttling"}
    return isinstance(error, BotoCoreError) and not isinstance(error, NoCredentialsError)


set_custom_error_handler(_worth_retrying)


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
    @property
    def retries(self) -> int:
        """Tries of a request, as s3fs asks for them at each: fewer within `storage.quick()`."""
        return QUICK_TRIES if is_quick() else TRIES


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
            page = _call("list_objects_v2", Bucket=bucket, Prefix=below(key, ""), **more)
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield Entry(f"{root}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
            more = {"ContinuationToken": page.get("NextContinuationToken", "")}

    def stat(self, uri: str) -> Entry | None:
        """One HEAD request."""
        bucket, key = _split(uri)
        try:
            head = _call("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return Entry(uri, head["ContentLength"], head["ETag"].strip('"'))

    def check_access(self, uri: str) -> None:
        """Ask for the object; any answer but a refusal of the credentials will do."""
        with contextlib.suppress(OSError, ObjectUnreadable):
            self.stat(uri)

    def read(self, uri: str, start: int | None = None, stop: int | None = None, version: str = "") -> bytes:
        """The object's bytes, or those of [start, stop); never short: a cut body is fetched again or raises.

        With `version` (an ETag), ObjectUnreadable where the object has another by now.
        """
        try:
            return bytes(sync(client().loop, _get, uri, start, stop, version))
        except Exception as error:
            raise _explain(error) from error

    def put(self, uri: str, data: bytes) -> None:
        """Write the object whole."""
        bucket, key = _split(uri)
        if len(data) <= WHOLE_PUT:
            _call("put_object", Bucket=bucket, Key=key, Body=data)
            return
        try:
            client().pipe_file(f"{bucket}/{key}", data)
        except Exception as error:
            raise _explain(error) from error

    def create(self, uri: str, data: bytes) -> bool:
        """Write the object with `If-None-Match: *`."""
        bucket, key = _split(uri)
        try:
            client().call_s3("put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except Exception as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if isinstance(error, FileExistsError) or code in TAKEN:
                return False
            raise _explain(error) from error
        return True

    def delete(self, uri: str) -> None:
        """Delete one object; S3 itself does not mind when it is not there."""
        bucket, key = _split(uri)
        _call("delete_object", Bucket=bucket, Key=key)


def _split(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` -> (bucket, key), verbatim."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def _explain(error: BaseException) -> Exception:
    """The error to raise instead: stable text without request ids, or `CredentialsLost`."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(error, NoCredentialsError):
        return CredentialsLost("no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    if isinstance(cause, ClientError):
        code = str(cause.response.get("Error", {}).get("Code", "unknown"))
        if code in CREDENTIAL_CODES:
            return CredentialsLost(f"S3 refuses the credentials ({code}): check the AWS keys in the environment")
        if code in {"NoSuchKey", "404", "NoSuchBucket"}:
            return FileNotFoundError("no such bucket" if code == "NoSuchBucket" else "not found")
        if code in {"AccessDenied", "403", "AllAccessDisabled"}:
            return PermissionError("access denied")
        if code in REPLACED:
            return ObjectUnreadable("it was replaced while it was read; the next run reads the new one")
        return ObjectUnreadable(f"the storage answered {code}")
    if isinstance(error, FileNotFoundError | PermissionError):
        return type(error)("not found" if isinstance(error, FileNotFoundError) else "access denied")
    return ObjectUnreadable(f"the storage cannot be reached or broke off ({type(error).__name__})")


def _call(method: str, **arguments: Any) -> Any:
    """One S3 request, retried; raises FileNotFoundError, PermissionError, CredentialsLost or ObjectUnreadable."""
    try:
        return client().call_s3(method, **arguments)
    except Exception as error:
        raise _explain(error) from error


async def _get(uri: str, start: int | None, stop: int | None, etag: str) -> bytes:
    bucket, key = _split(uri)
    span = {} if start is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
    span |= {"IfMatch": f'"{etag}"'} if etag else {}
    cut: Exception | None = None
    for _ in range(BODY_TRIES):
        answer = await client()._call_s3("get_object", Bucket=bucket, Key=key, **span)
        try:
            data = await asyncio.wait_for(answer["Body"].read(), timeout=TIMEOUT_S * 20)
        except CUT as error:
            cut = error
            continue
        finally:
            answer["Body"].close()
        if len(data) == answer["ContentLength"]:
            return bytes(data)
    raise cut or ConnectionError("the body was short")
