"""A run folder in a bucket: a working folder on this machine, and what goes to and fro."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from oct_xla.errors import CheckpointError, RunFolderError
from oct_xla.folder.bucket import Bucket
from oct_xla.folder.checkpoint import STATE
from oct_xla.folder.journal import say
from oct_xla.folder.lease import OWN, WRITER, Lease
from oct_xla.folder.mirror import Mirror

CHECKPOINTS = "checkpoints"
_HERE = (OWN, WRITER, ".lock", ".fit-lock")
"""Files that belong to one side, and are never copied."""


def working_folder(url: str) -> Path:
    """Return where a run in a bucket is written on this machine; the same for one URL at each call.

    Below `XDG_CACHE_HOME`, by default `~/.cache`: it needs room for the checkpoints that are kept.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    url = url.rstrip("/")
    name = re.sub(r"[^\w.-]+", "_", url.rpartition("/")[2])[:40]
    return cache / "oct-xla" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class RemoteFolder:
    """A run folder in a bucket.

    The bucket counts: a working folder that was not the last to write the run begins empty, with
    what the bucket has. Checkpoints go through a `Mirror`; all else is copied as it stands.

    Args:
        url: of a folder that is this run's alone.

    Attributes:
        path: the working folder; who writes it locks it first.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.path = working_folder(self.url)
        self._stopping = self._given_up = False
        self._bucket = Bucket(self.url)
        self._lease = Lease(self._bucket, self.path)
        self._sent: dict[str, tuple[int, int]] = {}

    def mirror(self, keep_last: int) -> Mirror:
        """Return the copies of the checkpoints."""
        return Mirror(f"{self.url}/{CHECKPOINTS}", keep_last, self._before_commit)

    def take_up(self) -> None:
        """Become the writer, and bring what the bucket has and this machine lacks.

        Checkpoints are not brought; the one to go on from is, when it is looked for.

        Raises:
            RunFolderError: if another process is writing, or the disk refuses.
            CheckpointError: if the bucket does not answer.
        """
        last, own = self._lease.wait_for_others()
        if not own:
            try:
                self._clear(keep=last is None)
                self._fetch()
            except OSError as error:
                raise RunFolderError(
                    f"{self.path}: cannot be written: {error.strerror}; free space, or let"
                    " XDG_CACHE_HOME name another disk"
                ) from error
        self._lease.hold()

    def send(self, *, everything: bool = False) -> None:
        """Copy files that have changed: those directly in the folder, or all but checkpoints.

        Args:
            everything: files in folders, too.

        Raises:
            CheckpointError: if the bucket does not take one; a file is there as it is or as it was.
        """
        for path in self._files(everything):
            self._send(path)

    def send_below(self, folder: Path) -> None:
        """Copy a folder of the run that nobody writes any more; its states, which commit, last.

        Raises:
            CheckpointError: if the bucket does not take a file.
            RunFolderError: if another process has taken the run over.
        """
        self._lease.check()
        whole = [path for path in self._files(True) if path.is_relative_to(folder)]
        for path in sorted(whole, key=lambda one: one.name == STATE):
            self._send(path)

    def _send(self, path: Path) -> None:
        """Copy a file, unless it has not changed since."""
        name, facts = path.relative_to(self.path).as_posix(), path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        if self._sent.get(name) == stamp:
            return
        if path.parent == self.path:
            self._bucket.write(name, path.read_bytes())  # metrics.jsonl grows meanwhile
        else:
            self._bucket.put(path, name)
        self._sent[name] = stamp

    def stop(self, *, copied: bool) -> None:
        """Note that the run was asked to stop: that the bucket does not answer is only told.

        Args:
            copied: whether its last checkpoint lies there; if not, nothing more is tried.
        """
        self._stopping, self._given_up = True, not copied

    def let_go(self, *, failed: bool = False) -> None:
        """Send everything, and let another process write the run.

        Args:
            failed: an error is on its way, and one of the bucket is only told.

        Raises:
            CheckpointError: if the bucket does not answer.
            RunFolderError: if another process has taken the run over.
        """
        try:
            if self._given_up:
                raise CheckpointError(f"{self.url}: lacks the last checkpoint")
            self._lease.check()
            self.send(everything=not failed)
            self._lease.end()
        except RunFolderError:  # the bucket is another's, who needs nothing of this run
            if not failed:
                raise
        except CheckpointError as error:
            self._lease.leave()
            text = f"{error}; the run lies in {self.path}, the same command copies it"
            if not (failed or self._stopping):
                raise CheckpointError(text) from error
            say(text)

    def _before_commit(self) -> None:
        """A checkpoint in the bucket has all rows up to its step beside it."""
        self._lease.check()
        self.send()

    def _files(self, everything: bool) -> Iterator[Path]:
        found = self.path.rglob("*") if everything else self.path.iterdir()
        for path in sorted(found):
            if not _travels(path.relative_to(self.path).parts):
                continue
            if path.is_file() and not path.is_symlink():
                yield path

    def _clear(self, *, keep: bool) -> None:
        """Empty the working folder; keep what the bucket knows nothing of beside it."""
        left = [one for one in self.path.iterdir() if one.name not in _HERE]
        aside = self.path.with_name(f"{self.path.name}.aside")
        if left and keep:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            say(f"{self.url}: holds no run any more; what {self.path} held is kept in {aside.name}")
        for one in left:
            if keep:
                one.rename(aside / one.name)
            elif one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()

    def _fetch(self) -> None:
        for name in self._bucket.names():
            parts = PurePosixPath(name).parts
            if not _travels(parts):
                continue
            if ".." in parts:  # never out of the folder
                say(f"{self.url}/{name}: is left out")
                continue
            here = self.path / name
            here.parent.mkdir(parents=True, exist_ok=True)
            self._bucket.get(name, here)


def _travels(parts: Sequence[str]) -> bool:
    """Whether a file is copied as it stands; `parts` are of its path in the folder."""
    passing = parts[-1].startswith(".") and parts[-1].endswith(".tmp")
    return parts[0] != CHECKPOINTS and parts[-1] not in _HERE and not passing
