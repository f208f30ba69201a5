"""How buckets are reached: one configuration for the process, and filesystems that survive forks.

`configure_storage(StorageConfig(...))` says once, for this process, where an S3-compatible store
answers, how long to wait and whether to keep what was fetched; every function of this package that
takes a URL then follows it. Forked processes inherit it. Spawned ones are given it:
`ProcessPoolExecutor(..., initializer=start_worker, initargs=(current_storage(),))`.
"""

import asyncio
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from fsspec.core import url_to_fs
from fsspec.registry import get_filesystem_class

from oct_io.errors import TreeError
from oct_io.storage.verdicts import Redirected, is_passing

CLIENT_TRIES = 3  # of one request within seconds; what lasts longer is `outages`'s
S3, GCS = frozenset({"s3", "s3a"}), frozenset({"gs", "gcs"})
SECRETS = frozenset(
    {"key", "secret", "username", "password", "access_token", "sas_token", "account_key"}
    | {"connection_string", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
)
"""Arguments of fsspec filesystems that hold credentials."""

TOKENS = frozenset({"anon", "google_default", "cloud", "cache", "browser"})
"""Values of `token` that name a way to find credentials; any other value is one itself."""

ABOVE_ZERO = (
    *("connect_timeout_s", "read_timeout_s", "first_answer_s", "give_up_s"),
    "content_cache_gb",
)


@dataclass(kw_only=True, slots=True)
class StorageConfig:
    """How scans in buckets are reached; local files need none of it.

    Credentials are not part of it, because runs write their configuration down. They come from
    where the store's own tools find them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or
    AWS_PROFILE for s3://, GOOGLE_APPLICATION_CREDENTIALS or the machine's account for gs://.
    """

    endpoint_url: str = ""
    """Address of a store that is not its inventor's, such as https://s3.us-west-004.backblazeb2.com
    for s3://; empty: AWS_ENDPOINT_URL or STORAGE_EMULATOR_HOST, else Amazon's and Google's own."""

    region: str = ""
    """Region of an S3 store, such as us-west-004; empty: AWS_DEFAULT_REGION."""

    anonymous: bool = False
    """Ask without credentials; for public buckets."""

    options: dict[str, Any] = field(default_factory=dict)
    """More arguments of the fsspec filesystem, such as {requester_pays: true}; no credentials."""

    connections: int = 32
    """Requests in flight for one process; hides 30 to 100 ms of latency behind each other."""

    connect_timeout_s: float = 10.0
    """Seconds to wait for a connection."""

    read_timeout_s: float = 30.0
    """Seconds of silence after which a connection counts as dead."""

    first_answer_s: float = 45.0
    """Seconds for a store to answer for the first time; if it does not, its address is likelier
    wrong than the store down. Time for one silent connection and a second try."""

    give_up_s: float = 900.0
    """Seconds for one request with all its tries, once the store has answered: longer than a
    router, a VPN or a store's front end takes to start again, and enough for 260 MB, the largest
    scans, at 0.3 MB/s. After that the work stops, and goes on when it is asked for again."""

    content_cache: str = ""
    """Local folder that keeps fetched files for the next time; empty: nothing is kept."""

    content_cache_gb: float = 100.0
    """Size that the folder stays below, in 10^9 bytes; what was not used for longest goes first."""

    content_cache_checked: bool = True
    """Ask the bucket whether a kept file is still the same, one small request each; without it,
    kept files are read without any network."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.endpoint_url)
        if self.endpoint_url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("storage.endpoint_url must look like https://s3.example.org")
        if "@" in parts.netloc or parts.query:
            raise ValueError("storage.endpoint_url must hold no credentials; set them in the shell")
        if not 1 <= self.connections <= 1000:
            raise ValueError(f"storage.connections ({self.connections}) must be 1 to 1000")
        for name in ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise ValueError(f"storage.{name} ({getattr(self, name)}) must be above 0")
        _refuse_credentials(self.options, "storage.options")


def _refuse_credentials(options: Mapping[str, Any], name: str) -> None:
    for key, value in options.items():
        if key in SECRETS or (key == "token" and value not in TOKENS):
            raise ValueError(
                f"{name}.{key}: credentials do not belong into a configuration, which runs write "
                "down; set them in the shell, such as AWS_ACCESS_KEY_ID"
            )
        if isinstance(value, Mapping):
            _refuse_credentials(value, f"{name}.{key}")


class Contact:
    """What this process knows of one store: whether it ever answered, and when it last did."""

    def __init__(self) -> None:
        self.answered = _WORKING
        self.given_up = False
        self.heard_at = 0.0  # time.monotonic()
        self.refusal = ""  # what came last, if it was no success

    def hear(self, status: int = 200) -> None:
        """Note a sign of life."""
        self.answered, self.heard_at = True, time.monotonic()
        self.refusal = f"HTTP status {status}" if status >= 400 else ""
        self.given_up = self.given_up and status >= 400


_WORKING = False  # whether this process works for one that has reached the stores already
_CONTACTS: WeakKeyDictionary[Any, Contact] = WeakKeyDictionary()  # by filesystem
_CURRENT: list[StorageConfig] = []  # at most one; empty until someone configures
_OPEN: dict[tuple[int, str, str], Any] = {}  # filesystems by process, scheme and arguments


def configure_storage(config: StorageConfig | None) -> None:
    """Let all later requests of this process follow `config`; None goes back to the defaults."""
    _CURRENT[:] = [] if config is None else [config]


def start_worker(config: StorageConfig) -> None:
    """Follow `config` in a process that works for one which has reached the stores already."""
    global _WORKING
    _WORKING = True
    configure_storage(config)


def contact_with(filesystem: Any) -> Contact:
    """What this process knows of the store behind a filesystem."""
    return _CONTACTS.setdefault(filesystem, Contact())


def current_storage() -> StorageConfig:
    """Return what `configure_storage` was given last, or the defaults; can be sent to workers."""
    return _CURRENT[0] if _CURRENT else StorageConfig()


@contextmanager
def using_storage(config: StorageConfig) -> Iterator[None]:
    """Follow `config` within a block, in all threads of this process."""
    before = list(_CURRENT)
    configure_storage(config)
    try:
        yield
    finally:
        _CURRENT[:] = before


def redact(url: str | Path) -> str:
    """Take user, password and query (signed tokens) out of a URL; local paths stay as they are."""
    text = str(url)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"


def open_filesystem(
    url: str | Path, storage_options: Mapping[str, Any] | None = None
) -> tuple[Any, str]:
    """Filesystem of `url` and the path within it.

    Filesystems of buckets hold sockets and a thread, which a forked process does not get; so each
    process has its own, shared by its threads.

    Args:
        url: local path or fsspec URL.
        storage_options: arguments of the fsspec filesystem, above those of the configuration.

    Raises:
        TreeError: nothing installed reads this scheme.
    """
    text = str(url)
    scheme = text.split("://", 1)[0] if "://" in text else "file"
    try:
        if scheme in S3 | GCS:
            filesystem = _bucket(scheme, storage_options or {})
            return filesystem, str(filesystem._strip_protocol(text))
        filesystem, path = url_to_fs(text, **(storage_options or {}))
    except (ImportError, ValueError) as error:
        raise TreeError(
            f"{redact(url)}: nothing installed reads '{scheme}://'; for s3:// install "
            "oct-io[s3], for gs:// install oct-io[gcs]"
        ) from error
    return filesystem, str(path)


def describe_place(filesystem: Any, path: str) -> str:
    """Bucket and endpoint of a path, for messages; no more of it, since paths name participants."""
    if "file" in schemes_of(filesystem):
        return "the disk"
    bucket = path.strip("/").split("/")[0] if is_bucket(filesystem) else ""
    made_with = getattr(filesystem, "storage_options", {})
    variable = "AWS_ENDPOINT_URL" if schemes_of(filesystem) & S3 else "STORAGE_EMULATOR_HOST"
    endpoint = made_with.get("endpoint_url") or (bucket and os.environ.get(variable)) or ""
    place = f"{min(schemes_of(filesystem), key=len)}://{bucket}"
    return f"{place} at {redact(endpoint)}" if endpoint else place


def schemes_of(filesystem: Any) -> frozenset[str]:
    """Names that stand before :// for a filesystem."""
    names = filesystem.protocol
    return frozenset({names} if isinstance(names, str) else names)


def is_bucket(filesystem: Any) -> bool:
    """Whether a filesystem is of S3 or GCS."""
    return bool(schemes_of(filesystem) & (S3 | GCS))


def stays_in_process(url: str | Path) -> bool:
    """Whether only this process sees what lies at `url`, so that workers cannot read it."""
    return str(url).startswith("memory:")


def _bucket(scheme: str, more: Mapping[str, Any]) -> Any:
    config = current_storage()
    arguments = _s3_arguments(config) if scheme in S3 else _gcs_arguments(config)
    arguments = _merged(_merged(arguments, config.options), more)
    waits = [config.connect_timeout_s, config.read_timeout_s]
    key = (os.getpid(), scheme, json.dumps([arguments, waits], sort_keys=True, default=repr))
    if key not in _OPEN:
        # setdefault is atomic. A lock here could be held by a thread that a fork leaves behind.
        _OPEN.setdefault(key, _make(scheme, arguments, config))
    return _OPEN[key]


def _make(scheme: str, arguments: Mapping[str, Any], config: StorageConfig) -> Any:
    """Make a filesystem whose answers count as signs of life."""
    if scheme in S3:
        made_by = get_filesystem_class("s3")  # says in fsspec's words what to install
        from aiobotocore.session import AioSession  # type: ignore[import-untyped]

        session = AioSession()
        made = made_by(skip_instance_cache=True, session=session, **arguments)
        made.retries = 1  # of s3fs, on top of botocore's
        session.get_component("event_emitter").register_first(
            "needs-retry.s3", partial(_see_s3, contact_with(made))
        )
        return made
    get_filesystem_class("gs")
    import aiohttp
    from gcsfs.core import GCSFileSystem

    # Not gcsfs.GCSFileSystem: since 2026 that asks over gRPC what kind of bucket it is, once a
    # bucket and process, and waits for 60 s where only HTTP gets through.
    limits = {"sock_connect": config.connect_timeout_s, "sock_read": config.read_timeout_s}
    arguments = {"requests_timeout": aiohttp.ClientTimeout(total=None, **limits), **arguments}
    made = GCSFileSystem(skip_instance_cache=True, **arguments)
    # Without gcsfs's own retries: they log the address with a traceback when they end and cannot be
    # set. Three tries as botocore's: a listing or a removal is several requests, each of which may
    # fail, and at 30 % of them failing one removal took 110 s of starting again.
    once = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)

    async def ask(*what: Any, **how: Any) -> Any:
        for left in reversed(range(CLIENT_TRIES)):
            try:
                answer = await once(made, *what, **how)
                break
            except Exception as error:  # each client has errors of its own
                contact_with(made).refusal = type(error).__name__
                if not left or not is_passing(error):
                    raise
            await asyncio.sleep(secrets.randbelow(1000) / 1000 / (left + 1))
        contact_with(made).hear()
        if 300 < answer[0] < 400:
            raise Redirected
        return answer

    made._request = ask
    return made


def _see_s3(contact: Contact, response: Any = None, caught_exception: Any = None, **_: Any) -> None:
    """Note what came of a request; stop at a redirect that botocore would follow for ever.

    To follow one, botocore must know the bucket's region. Where the answer does not tell, it asks
    for it with a request that is redirected as well.

    Raises:
        Redirected: such an answer.
    """
    if response is None:
        contact.refusal = type(caught_exception).__name__
        return
    answer = response[0]
    contact.hear(answer.status_code)
    known = {name.lower(): value for name, value in answer.headers.items()}
    moved = 300 < answer.status_code < 400 and answer.status_code != 304
    if moved and "x-amz-bucket-region" not in known:
        raise Redirected(redact(known.get("location", "")))


def _s3_arguments(config: StorageConfig) -> dict[str, Any]:
    asking: dict[str, Any] = {
        "max_pool_connections": config.connections,
        "connect_timeout": config.connect_timeout_s,
        "read_timeout": config.read_timeout_s,
        "retries": {"total_max_attempts": CLIENT_TRIES, "mode": "standard"},
        # From botocore 1.36 on, checksum headers are sent by default, which Backblaze B2 and other
        # S3-compatible stores refuse (boto/botocore #3352).
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    made: dict[str, Any] = {"config_kwargs": asking, "use_listings_cache": False}
    if config.anonymous:
        made["anon"] = True
    if config.endpoint_url:
        made["endpoint_url"] = config.endpoint_url
    if config.region:
        made["client_kwargs"] = {"region_name": config.region}
    return made


def _gcs_arguments(config: StorageConfig) -> dict[str, Any]:
    made: dict[str, Any] = {"use_listings_cache": False}
    if config.anonymous:
        made["token"] = "anon"
    if config.endpoint_url:
        made["endpoint_url"] = config.endpoint_url
    return made


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with what `above` says; nested mappings are merged alike."""
    made = dict(below)
    for name, value in above.items():
        nested = made.get(name)
        both = isinstance(nested, Mapping) and isinstance(value, Mapping)
        made[name] = _merged(nested or {}, value) if both else value
    return made
