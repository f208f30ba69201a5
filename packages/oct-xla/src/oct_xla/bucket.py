"""Files below a URL, through fsspec; what a store does not do is told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oct_xla.errors import CheckpointError
from oct_xla.files import write_atomically


def is_url(place: object) -> bool:
    """Whether a place lies in a bucket."""
    return isinstance(place, str) and "://" in place


class Bucket:
    """The files below a URL, by names relative to it. Each is written as a whole or not at all.

    A store that is busy is asked again by s3fs and gcsfs themselves, for some seconds each time.

    Args:
        url: as fsspec takes it. Keys, endpoints and the like come from fsspec's own settings and
            environment (`FSSPEC_S3_ENDPOINT_URL`, ...).
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._local = url.startswith("file:")  # of which none writes a file as a whole
        self._root = ""
        self._opened: Any = None

    @property
    def _files(self) -> Any:
        """The file system, at the first use: an error then comes where errors are told."""
        if self._opened is None:
            import fsspec

            options = {"auto_mkdir": True} if self._local else {}  # as in a bucket
            self._opened, root = fsspec.core.url_to_fs(self.url, **options)
            self._root = root.rstrip("/")
        self._opened.invalidate_cache()  # what another machine has written
        return self._opened

    def names(self, pattern: str = "") -> list[str]:
        """Return the names of all files, or of those that `pattern` ("*/name") fits.

        Raises:
            CheckpointError: if the bucket does not answer; so do all others.
        """
        with self._reaching():
            files = self._files
            found = files.glob(f"{self._root}/{pattern}") if pattern else files.find(self._root)
            return sorted(str(one).removeprefix(self._root).lstrip("/") for one in found)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if it is not there."""
        with self._reaching(), suppress(FileNotFoundError):
            files = self._files
            return int(files.info(f"{self._root}/{name}")["size"])
        return None

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, None if it is not there."""
        with self._reaching(), suppress(FileNotFoundError):
            files = self._files
            return bytes(files.cat_file(f"{self._root}/{name}"))
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it."""
        with self._reaching():
            files = self._files
            if self._local:
                path = Path(f"{self._root}/{name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
            else:
                files.pipe_file(f"{self._root}/{name}", content)

    def put(self, here: Path, name: str) -> None:
        """Copy a file of this machine that does not change meanwhile."""
        with self._reaching():
            files = self._files
            files.put_file(str(here), f"{self._root}/{name}")

    def get(self, name: str, here: Path) -> None:
        """Copy a file to this machine."""
        with self._reaching():
            files = self._files
            files.get_file(f"{self._root}/{name}", str(here))

    def remove(self, name: str) -> None:
        """Remove a file, or all below a folder; what is not there is fine."""
        with self._reaching(), suppress(FileNotFoundError):
            files = self._files
            files.rm(f"{self._root}/{name}", recursive=True)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise CheckpointError(
                f"{self.url}: {error}; install fsspec with s3fs for s3:// or gcsfs for gs://"
            ) from error
        except Exception as error:  # each store raises its own; none of them is ours
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"{self.url}: cannot be read or written: {reason}; check the bucket and its keys"
            ) from error
