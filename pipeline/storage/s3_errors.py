"""What S3's answers and failures mean for whoever asked: in stable words, without addresses and request ids."""

from __future__ import annotations

import asyncio

import aiohttp
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.parsers import ResponseParserError

from pipeline.errors import CredentialsLost, ObjectUnreadable
from pipeline.storage.host import Fault
from pipeline.storage.store import TooLarge

CREDENTIAL_CODES = {
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired", "RequestTimeTooSkewed",
}  # fmt: skip
REPLACED = {"PreconditionFailed", "412"}
TAKEN = REPLACED | {"ConditionalRequestConflict"}
THROTTLED = {
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "TooManyRequests",
    "503", "429",
}  # fmt: skip
PASSING = {"RequestTimeout", "XAmzContentSHA256Mismatch"}  # of the codes that come with other than 5xx
# Whoever it is that sees a connection refused, silent or broken off, or a reply that is no S3's.
BROKEN = (
    ConnectionError, HTTPClientError, IncompleteReadError, ResponseParserError, aiohttp.ClientError, OSError,
    asyncio.TimeoutError,
)  # fmt: skip


class Refused(ObjectUnreadable):
    """A condition on the object's version does not hold."""


def explained(error: BaseException) -> Exception:
    """The error to raise instead: stable text without request ids."""
    if isinstance(error, TooLarge):
        return error
    if isinstance(error, NoCredentialsError):
        return CredentialsLost("no S3 credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile")
    if isinstance(error, CredentialRetrievalError):
        return CredentialsLost("the provider of the S3 credentials fails: check the AWS profile")
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError):
        return _refusal(cause)
    if isinstance(error, FileNotFoundError | PermissionError):
        return type(error)("not found" if isinstance(error, FileNotFoundError) else "access denied")
    if isinstance(error, ParamValidationError):
        return FileNotFoundError("no bucket or object can have such a name")
    if isinstance(error, ValueError) and "endpoint" in str(error):  # botocore's, of `AWS_ENDPOINT_URL=host:port`
        return ObjectUnreadable(f"{error}: AWS_ENDPOINT_URL begins with http:// or https://")
    text = f"the storage cannot be reached or broke off ({type(error).__name__})"
    return Fault(text) if isinstance(error, BROKEN) else ObjectUnreadable(text)


def _refusal(error: ClientError) -> Exception:
    """What an answer of S3 that is an error means."""
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in CREDENTIAL_CODES:
        return CredentialsLost(f"S3 refuses the credentials ({code}): check the AWS keys in the environment")
    if code in {"NoSuchKey", "404", "NoSuchBucket"}:
        return FileNotFoundError("no such bucket" if code == "NoSuchBucket" else "not found")
    if code in {"AccessDenied", "403", "AllAccessDisabled"}:
        return PermissionError("access denied")
    if code in TAKEN:
        return Refused("it was replaced while it was read; the next run reads the new one")
    text, throttled = f"the storage answered {code}", code in THROTTLED or status in (429, 503)
    return Fault(text, throttled=throttled) if throttled or status >= 500 or code in PASSING else ObjectUnreadable(text)
