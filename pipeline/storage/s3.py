"""S3 through s3fs, as a retrying client and nothing else: no caches, no globbing, keys are taken verbatim.

Who retries what, stated once. aiohttp: a request whose connection was closed under it, once and at once. botocore:
nothing. s3fs: each request, 10 times with 0.1 s to 12 s between (28 s in all), on HTTP 5xx, throttling, refused and
dropped connections. This file: a body that was cut or stalled, 5 times. A request that hangs is given up after 15 s,
an upload 1 s later for each 64 KiB. So a permanent failure is known within 30 s, a permanent stall within 3 minutes, or
10 times what an upload may take.
"""

from __future__ import annotations

import asyncio
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

TRIES, BODY_TRIES, TIMEOUT_S = 10, 5, 15
SLOWEST = 64 << 10  # bytes a second of an upload
WHOLE_PUT = 64 << 20  # bytes; s3fs sends larger files in parts (from 100 MiB on), which is as atomic
CREDENTIAL_CODES = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "RequestTimeTooSkewed",
}  # fmt: skip
REPLACED = {"PreconditionFailed", "412"}
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
    """aiohttp's, which by itself waits for ever on a server that takes no body: its clock starts behind the upload."""

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


@functools.cache
def client() -> s3fs.S3FileSystem:
    """The one S3 client of this process; endpoint, region and credentials come from the AWS environment."""
    fs = s3fs.S3FileSystem(
        use_listings_cache=False,
        config_kwargs={
            "http_session_cls": _Session,
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": TIMEOUT_S,
            "max_pool_connections": 64,
        },
    )
    fs.retries = TRIES
    return fs


def split(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` -> (bucket, key), verbatim."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
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


def call(method: str, **arguments: Any) -> Any:
    """One S3 request, retried; raises FileNotFoundError, PermissionError, CredentialsLost or ObjectUnreadable."""
    try:
        return client().call_s3(method, **arguments)
    except Exception as error:
        raise _explain(error) from error


def entries(uri: str) -> Iterator[tuple[str, int, str]]:
    """(key, size, etag) of every object whose key starts with the uri's key, in key order, page by page."""
    bucket, prefix = split(uri)
    page: dict[str, Any] = {"IsTruncated": True}
    more: dict[str, str] = {}
    while page.get("IsTruncated"):
        page = call("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        for item in page.get("Contents", ()):
            yield item["Key"], item["Size"], item["ETag"].strip('"')
        more = {"ContinuationToken": page.get("NextContinuationToken", "")}


def stat(uri: str) -> tuple[int, str]:
    """(size, etag) of one object."""
    bucket, key = split(uri)
    head = call("head_object", Bucket=bucket, Key=key)
    return head["ContentLength"], head["ETag"].strip('"')


def get(uri: str, start: int | None = None, stop: int | None = None, etag: str = "") -> bytes:
    """The object's bytes, or those of [start, stop); never short: a cut body is fetched again or raises.

    With `etag`, ObjectUnreadable where the object has another by now.
    """
    try:
        return bytes(sync(client().loop, _get, uri, start, stop, etag))
    except Exception as error:
        raise _explain(error) from error


async def _get(uri: str, start: int | None, stop: int | None, etag: str) -> bytes:
    bucket, key = split(uri)
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


def put(uri: str, data: bytes, *, exclusive: bool = False) -> None:
    """Write the object whole; with `exclusive` raises FileExistsError when the key is taken (`If-None-Match: *`)."""
    bucket, key = split(uri)
    if len(data) > WHOLE_PUT and not exclusive:
        try:
            client().pipe_file(f"{bucket}/{key}", data)
        except Exception as error:
            raise _explain(error) from error
        return
    condition = {"IfNoneMatch": "*"} if exclusive else {}
    try:
        client().call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
    except Exception as error:
        code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
        if isinstance(error, FileExistsError) or code in {*REPLACED, "ConditionalRequestConflict"}:
            raise FileExistsError(uri) from error
        raise _explain(error) from error


def delete(uri: str) -> None:
    """Delete one object; one that is not there is no error."""
    bucket, key = split(uri)
    call("delete_object", Bucket=bucket, Key=key)
