"""Copies of whole checkpoints in a bucket, for a run that moves between machines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oct_xla.checkpoint import STATE, files_of, read_checkpoint
from oct_xla.errors import CheckpointError
from oct_xla.journal import say

COMMIT = "COMMIT"


class Mirror:
    """A folder in a bucket with the newest checkpoints of one run.

    Files go up first. The object `COMMIT` comes last and makes the checkpoint: it is `state.json`,
    which vouches for every byte of the others, so one atomic write both commits and replaces the
    state. A copy without it is not there; one that is deleted loses it first.

    Args:
        url: of a folder that is this run's alone, as fsspec takes it. Keys, endpoints and the like
            come from fsspec's own settings and environment (`FSSPEC_S3_ENDPOINT_URL`, ...).
        keep_last: how many copies stay, the best one not counted.
    """

    def __init__(self, url: str, keep_last: int) -> None:
        self.url, self.keep_last = url.rstrip("/"), keep_last
        self._root = ""
        self._opened: Any = None

    @property
    def _files(self) -> Any:
        """The file system, at the first use: an error then comes where errors are told."""
        if self._opened is None:
            import fsspec

            self._opened, root = fsspec.core.url_to_fs(self.url)
            self._root = root.rstrip("/")
        return self._opened

    def steps(self) -> list[int]:
        """Return the steps of all committed copies, ascending.

        Raises:
            CheckpointError: if the bucket does not answer.
        """
        with _reaching(self.url):
            self._files.invalidate_cache()  # what another machine has written
            found = self._files.glob(f"{self._root}/step-*/{COMMIT}")
        names = [str(path).split("/")[-2].removeprefix("step-") for path in found]
        return sorted(int(name) for name in names if name.isdigit())

    def upload(self, folder: Path, best: int | None) -> None:
        """Copy a whole checkpoint folder; files that are there at their size are not sent again.

        Args:
            folder: of one checkpoint on this machine.
            best: step of the best checkpoint, whose copy stays.

        Raises:
            CheckpointError: if it cannot be copied; it is then not there, or as it was before.
        """
        with _reaching(self.url):
            self._files.invalidate_cache()
            place = f"{self._root}/{folder.name}"
            for name in files_of(folder):
                here = folder / name
                if self._size(f"{place}/{name}") != here.stat().st_size:
                    self._files.put_file(str(here), f"{place}/{name}")
            self._files.pipe_file(f"{place}/{COMMIT}", (folder / STATE).read_bytes())
            self._tidy(best)

    def _size(self, path: str) -> int | None:
        try:
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None

    def _tidy(self, best: int | None) -> None:
        steps = self.steps()
        for step in set(steps[: -self.keep_last]) - {best}:
            place = f"{self._root}/step-{step:08d}"
            self._files.rm_file(f"{place}/{COMMIT}")
            with suppress(FileNotFoundError):  # a store that knows no folders has none left
                self._files.rm(place, recursive=True)

    def download_newest(self, newer_than: int, place: Callable[[int], Path]) -> int | None:
        """Copy the newest sound checkpoint that is newer than what is here; returns its step.

        Copies that are damaged are named on stderr and the one before is tried.

        Args:
            newer_than: step of the newest checkpoint on this machine.
            place: empty folder for the checkpoint of a step.

        Raises:
            CheckpointError: if the bucket does not answer.
        """
        for step in reversed(self.steps()):
            if step <= newer_than:
                return None
            try:
                self.download(step, place(step))
            except CheckpointError as error:
                say(f"{self.url}: the copy of step {step} is left out: {error}")
                continue
            return step
        return None

    def download(self, step: int, folder: Path) -> None:
        """Copy the checkpoint of one step into an empty folder, and check every byte of it.

        Raises:
            CheckpointError: if it is not there, damaged, or out of reach.
        """
        with _reaching(self.url):
            files = self._files  # finds the root
            place = f"{self._root}/step-{step:08d}"
            (folder / STATE).write_bytes(files.cat_file(f"{place}/{COMMIT}"))
        for name in files_of(folder):
            with _reaching(self.url):
                files.get_file(f"{place}/{name}", str(folder / name))
        read_checkpoint(folder)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(
            f"loop.checkpoint_url ({url}): {error}; install fsspec with s3fs for s3:// or gcsfs for gs://"
        ) from error
    except Exception as error:  # each store raises its own; none of them is ours
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{url}: no copy of the checkpoint: {reason}; check the bucket and its keys"
        ) from error
