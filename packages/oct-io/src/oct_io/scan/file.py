"""One scan as the caller named it: where it lies, and what the caller knows about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import SEEK_CUR, SEEK_END, BufferedReader, BytesIO, RawIOBase
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from oct_io.errors import ScanError, StoreError, TreeError
from oct_io.storage.files import (
    exists,
    file_size,
    list_folder,
    read_bytes,
    read_head,
    read_range,
    redact,
)
from oct_io.volume import Pattern, Spacing

RASTER: tuple[Pattern, ...] = ("raster",)
MAX_SIDECAR_BYTES = 1 << 20
WHOLE_BYTES = 256 << 10  # a file no longer than this is one request
BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanFile:
    """What every reader is given.

    Attributes:
        url: a local path or an fsspec URL; of a file, or of a folder that is one scan.
        spacing: millimetres that stand above what the file says; None to derive them.
        patterns: scan patterns that the caller admits.
        member: which of several volumes in one file: an array's name, a series' number.
        sidecar: fields of a sidecar that its folders have, merged; None to look beside it.
        fallback: millimetres where neither the file nor `spacing` says them.
        storage_options: for the filesystem.
    """

    url: str
    spacing: Spacing | None = None
    patterns: tuple[Pattern, ...] = RASTER
    member: str | None = None
    sidecar: Mapping[str, Any] | None = field(default=None, repr=False)
    fallback: Spacing | None = None
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        """The address without credentials, for messages."""
        return redact(self.url)

    @property
    def name(self) -> str:
        """File name with its ending."""
        return PurePosixPath(self.where.replace("\\", "/")).name

    def content(self) -> bytes:
        """The whole file in one request.

        Raises:
            ScanError: stage `fetch`.
        """
        return read_bytes(self.url, storage_options=self.storage_options)

    def head(self, size: int) -> bytes:
        """The first `size` bytes, or fewer.

        Raises:
            ScanError: stage `fetch`.
        """
        return read_head(self.url, size, storage_options=self.storage_options)

    def stream(self) -> BinaryIO:
        """The file to be read here and there: what is asked for is fetched, a block at a time.

        Raises:
            ScanError: stage `fetch`, here and while it is read.
        """
        size = self._size()
        if size <= WHOLE_BYTES:
            return BytesIO(self.content())
        return BufferedReader(_Ranges(self, size), BLOCK_BYTES)

    def _size(self) -> int:
        try:
            size = file_size(self.url, storage_options=self.storage_options)
        except StoreError:
            raise
        except TreeError as error:
            raise ScanError(self.where, "fetch", "it cannot be reached") from error
        if size is None:
            raise ScanError(self.where, "fetch", "no such file")
        return size

    def beside(self, name: str) -> "ScanFile":
        """The file called `name` in the same folder."""
        folder, mark, _ = self.url.rstrip("/").rpartition("/")
        return replace(self, url=f"{folder}{mark}{name}")

    def inside(self, name: str) -> "ScanFile":
        """The file called `name` in this folder."""
        return replace(self, url=f"{self.url.rstrip('/')}/{name}")

    def names(self) -> list[str]:
        """Names of the files in this folder, sorted; no subfolders.

        Raises:
            ScanError: stage `fetch`.
        """
        try:
            return list_folder(self.url, storage_options=self.storage_options)
        except StoreError:
            raise
        except TreeError as error:
            raise ScanError(self.where, "fetch", "the folder cannot be listed") from error

    def text(self) -> str | None:
        """The file as text, if it is there; None otherwise.

        Raises:
            ScanError: stage `fetch`, or `parse` if it is too long or not UTF-8.
        """
        try:
            if not exists(self.url, storage_options=self.storage_options):
                return None
        except StoreError:
            raise
        except TreeError as error:
            raise ScanError(self.where, "fetch", "no permission to read it") from error
        head = self.head(MAX_SIDECAR_BYTES + 1)
        if len(head) > MAX_SIDECAR_BYTES:
            raise ScanError(self.where, "parse", f"more than {MAX_SIDECAR_BYTES:,} bytes")
        try:
            return head.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ScanError(self.where, "parse", "not UTF-8 text") from None


class _Ranges(RawIOBase):
    """A file of known size as a stream of bounded requests."""

    def __init__(self, file: ScanFile, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a byte, counted from the start, from here or from the end."""
        self._at = offset + {SEEK_CUR: self._at, SEEK_END: self._size}.get(whence, 0)
        if self._at < 0:
            raise ValueError("before the start of the file")
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fetch as many bytes as `buffer` takes, or as are left."""
        end = min(self._at + len(buffer), self._size)
        if end <= self._at:
            return 0
        options = self._file.storage_options
        content = read_range(self._file.url, self._at, end, storage_options=options)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
