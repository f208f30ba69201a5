"""Copies of whole checkpoints in a bucket, for a run that moves between machines."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from oct_xla.errors import CheckpointError
from oct_xla.folder.bucket import Bucket
from oct_xla.folder.checkpoint import STATE, files_of, read_checkpoint
from oct_xla.folder.journal import say

COMMIT = STATE


class Mirror:
    """A folder in a bucket with the newest checkpoints of one run, laid out as on a disk.

    Files go up first. `state.json`, which vouches for every byte of them, comes last and commits:
    it is one object, so one atomic write. A copy without it is not there; one that is deleted, or
    whose files are replaced, loses it first.

    Args:
        url: of a folder that is this run's alone, as fsspec takes it.
        keep_last: how many copies stay, the best one not counted.
        before_commit: called before each commit; what it raises leaves the copy uncommitted.
    """

    def __init__(
        self, url: str, keep_last: int, before_commit: Callable[[], None] = lambda: None
    ) -> None:
        self.url, self.keep_last = url.rstrip("/"), keep_last
        self._bucket, self._before_commit = Bucket(url), before_commit

    def steps(self) -> list[int]:
        """Return the steps of all committed copies, ascending.

        Raises:
            CheckpointError: if the bucket does not answer.
        """
        found = self._bucket.names(f"step-*/{COMMIT}")
        names = [name.partition("/")[0].removeprefix("step-") for name in found]
        return sorted(int(name) for name in names if name.isdigit())

    def upload(self, folder: Path, best: int | None) -> None:
        """Copy a whole checkpoint folder; files that the copy's own commit vouches for stay.

        Args:
            folder: of one checkpoint on this machine.
            best: step of the best checkpoint, whose copy stays.

        Raises:
            CheckpointError: if it cannot be copied; it is then not there, or as it was before.
        """
        commit = (folder / STATE).read_bytes()
        own, there = _listed(commit), self._listed(folder.name)
        sent = [name for name in own if not self._has(folder.name, name, own[name], there)]
        if sent and there is not None:
            self._bucket.remove(f"{folder.name}/{COMMIT}")
        for name in sent:
            self._bucket.put(folder / name, f"{folder.name}/{name}")
        self._before_commit()
        self._bucket.write(f"{folder.name}/{COMMIT}", commit)
        self._tidy(int(folder.name.removeprefix("step-")), best)

    def is_copy(self, folder: Path) -> bool:
        """Tell whether the bucket has no other checkpoint of that step than this one.

        Raises:
            CheckpointError: if the bucket does not answer, or the one here is damaged.
        """
        there = self._listed(folder.name)
        return there is None or there == _listed((folder / STATE).read_bytes())

    def _listed(self, name: str) -> dict[str, Any] | None:
        """What the commit of a copy says of its files; None if it has none."""
        content = self._bucket.read(f"{name}/{COMMIT}")
        return None if content is None else _listed(content)

    def _has(self, place: str, name: str, facts: Any, there: dict[str, Any] | None) -> bool:
        if there is None or there.get(name) != facts:
            return False
        return self._bucket.size(f"{place}/{name}") == facts["size"]

    def begin(self, step: int) -> None:
        """Have no copy of a step, nor a part of one, as its parts come anew.

        Raises:
            CheckpointError: if the bucket does not answer; so do all others.
        """
        self._bucket.remove(f"{_place(step)}/{COMMIT}")
        self._bucket.remove(_place(step))

    def put_part(self, step: int, file: Path) -> None:
        """Copy one file of a checkpoint whose other files come from elsewhere."""
        self._bucket.put(file, f"{_place(step)}/{file.name}")

    def leave_note(self, step: int, name: str, content: str) -> None:
        """Leave word beside the files of a checkpoint that is not committed."""
        self._bucket.write(f"{_place(step)}/{name}", content.encode())

    def read_note(self, step: int, name: str) -> str | None:
        """Read what another process has left; None if nothing lies there."""
        content = self._bucket.read(f"{_place(step)}/{name}")
        return None if content is None else content.decode()

    def read_commit(self, step: int, folder: Path) -> None:
        """Copy the state of a committed checkpoint into a folder, without its files."""
        self._bucket.get(f"{_place(step)}/{COMMIT}", folder / STATE)

    def commit(self, step: int, folder: Path, best: int | None, notes: Sequence[str] = ()) -> None:
        """Commit a checkpoint whose files are all there.

        Args:
            step: of the checkpoint.
            folder: holds its state.
            best: step of the best checkpoint, which stays.
            notes: names of those that have served.
        """
        self._before_commit()
        for name in notes:
            self._bucket.remove(f"{_place(step)}/{name}")
        self._bucket.write(f"{_place(step)}/{COMMIT}", (folder / STATE).read_bytes())
        try:
            self._tidy(step, best)
        except CheckpointError as error:  # what is committed is saved; the next one tidies
            say(f"{error}; older checkpoints stay until the next save")

    def _tidy(self, own: int, best: int | None) -> None:
        """Remove what is older than the newest up to `own`, and parts that nobody committed."""
        names = [PurePosixPath(name).parts for name in self._bucket.names("step-*/*")]
        found = [(int(place.removeprefix("step-")), name) for place, name in names]
        committed = sorted({step for step, name in found if name == COMMIT and step <= own})
        kept = {*committed[-self.keep_last :], best}
        for step in {step for step, _ in found if step < own} - kept:
            self.begin(step)

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
        self.read_commit(step, folder)
        for name in files_of(folder):
            if name != Path(name).name:  # never out of the folder
                raise CheckpointError(f"{self.url}/{_place(step)}: names a file elsewhere: {name}")
            self._bucket.get(f"{_place(step)}/{name}", folder / name)
        read_checkpoint(folder)


def _place(step: int) -> str:
    return f"step-{step:08d}"


def _listed(commit: bytes) -> dict[str, Any]:
    """What a commit says of its files; nothing if it is damaged."""
    try:
        listed: dict[str, Any] = json.loads(commit)["files"]
    except (ValueError, KeyError, TypeError):
        return {}
    return listed
