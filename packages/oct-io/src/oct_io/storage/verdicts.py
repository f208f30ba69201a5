"""What an error of a store means: ask again, a fact about one file, or no use in asking at all."""

import asyncio
import errno
import json
import sys
from typing import Any

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that the next try would meet again."""

PASSING_ERRNO = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.EPIPE, errno.ENETDOWN}
    | {errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETRESET, errno.ENOBUFS}
    | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EHOSTDOWN}
    | {getattr(errno, "EREMOTEIO", errno.EIO)}
)
"""What disks over a network, and s3fs for statuses of 500 and 503, report while they recover."""

PASSING_CODES = frozenset(
    {"RequestTimeout", "Throttling", "ThrottlingException", "ThrottledException"}
    | {"RequestLimitExceeded", "RequestThrottled", "TooManyRequestsException", "SlowDown"}
)
"""S3's words for "later" that may come with status 400."""

KEY_CODES = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
    | {"TokenRefreshRequired", "RequestTimeTooSkewed", "UnrecognizedClientException"}
)
"""S3's words for a key that is wrong for all files, not for one."""

REGION_CODES = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
)
NO_KEY = (
    "no credentials found; set them in the shell, such as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or storage.anonymous=true for a public bucket"
)


class CutOff(OSError):
    """Fewer bytes came than were announced, or the file changed while it was read."""


class TooLarge(OSError):
    """The file is larger than its reader allows."""


class Redirected(OSError):
    """The store answered that the bucket is elsewhere, to the address in the text if it said so."""


def named(error: BaseException) -> str:
    """The HTTP status of an error, or its type: nothing that could name a file."""
    status = status_of(error)
    return type(error).__name__ if status is None else f"HTTP status {status}"


def wrong_store(error: BaseException) -> str | None:
    """What is wrong with address or key, so that all files fail alike; None if it is not that."""
    code, status = code_of(error), status_of(error)
    if _is_redirect(error):
        to = f" to {error}" if isinstance(error, Redirected) and str(error) else ""
        return f"the store redirects{to}; set storage.endpoint_url and storage.region to its own"
    if code in REGION_CODES or (status is not None and 300 < status < 400):
        return f"wrong region or endpoint ({code or status}); set storage.region to the bucket's"
    if code in KEY_CODES or status in (401, 407) or "RefreshError" in type(error).__name__:
        return f"the key is refused ({code or named(error)}); set a valid one in the shell"
    if "Credentials" in type(error).__name__:
        return NO_KEY
    return None


def _is_redirect(error: BaseException) -> bool:
    """Whether the store sends elsewhere, once or in a circle; clients wrap the latter."""
    seen: list[BaseException] = [error]
    for one in seen:  # which grows; clients wrap errors in errors
        behind = (one.__cause__, one.__context__, getattr(one, "kwargs", {}).get("error"))
        seen += [other for other in behind if other is not None and other not in seen]
    circle = any(type(one).__name__ == "TooManyRedirects" for one in seen)
    return circle or isinstance(error, Redirected)


def is_answer(error: BaseException) -> bool:
    """Whether the store said something about one file."""
    status = status_of(error)
    said = isinstance(error, (*LASTING, TooLarge)) or str(error).startswith("Forbidden")  # gcsfs
    return said or (status is not None and 400 <= status < 500)


def _client_error(error: BaseException) -> dict[str, Any]:
    for one in (error, error.__cause__):  # s3fs raises OSError from the client's error
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def code_of(error: BaseException) -> str:
    """S3's word behind an error of s3fs, such as SlowDown; "" if there is none."""
    return str(_client_error(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException) -> int | None:
    """HTTP status behind an error of s3fs, gcsfs or aiohttp; None if it has none."""
    value = _client_error(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    for name in ("status", "code"):  # the second of aiohttp's errors only warns
        value = getattr(error, name, None) if value is None else value
    return value if isinstance(value, int) and value > 0 else None


def passes(status: int) -> bool:
    """Whether an HTTP status says "later": time-out, too many requests, a broken gateway."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: the transport failed, not the question."""
    if code_of(error) in PASSING_CODES:
        return True
    if isinstance(error, (*LASTING, TooLarge)) or _is_redirect(error):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, asyncio.TimeoutError, CutOff)):
        return True
    if isinstance(error, json.JSONDecodeError):  # half a listing of gcsfs
        return True
    if isinstance(error, _transport_errors()):  # before statuses: aiohttp gives a cut body a 400
        return True
    status = status_of(error)
    if status is not None:
        return passes(status)
    return isinstance(error, OSError) and error.errno in PASSING_ERRNO


def _transport_errors() -> tuple[type[BaseException], ...]:
    """Transport errors of what is loaded; an error of a module that is not cannot have come."""
    boto = ("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError")
    named = {
        "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
        "botocore.exceptions": boto,
        "botocore.parsers": ("ResponseParserError",),
        "fsspec.exceptions": ("FSTimeoutError",),
        "google.auth.exceptions": ("TransportError",),
        "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
        "socket": ("gaierror",),
    }
    found = []
    for module, names in named.items():
        loaded = sys.modules.get(module)
        found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(found)
