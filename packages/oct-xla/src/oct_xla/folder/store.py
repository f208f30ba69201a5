"""The folder of a run's checkpoints: which are whole, which are kept, which is best."""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from oct_xla.devices.sharding import Piece
from oct_xla.errors import CheckpointError
from oct_xla.folder.checkpoint import (
    Checkpoint,
    Written,
    best_step,
    is_whole,
    read_checkpoint,
    read_state,
    replace_state,
    write_state,
)
from oct_xla.folder.files import check_local, fsync_folder, write_atomically
from oct_xla.folder.journal import say
from oct_xla.folder.mirror import Mirror
from oct_xla.folder.parts import TEMPORARY, Parts, note_name, path_of, temporary, writing

BEST = "best.json"
_DAMAGED = "damaged-"
_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The folder `checkpoints/` of one run.

    A checkpoint is written to a temporary folder and flushed to disk: tensors in safetensors, then
    `state.json` with a SHA-256 of every file and of itself; then the folder is renamed. So a
    process that is killed at any moment leaves the last whole checkpoint as it was, and a byte that
    changes later is found. Other names in the folder are left alone.

    The state of a checkpoint says under "best" which checkpoint is best, as {"step", "metric",
    "value"}; that one is kept, and `best.json` repeats it for other readers.

    Args:
        root: the folder; made at the first save.
        keep_last: how many checkpoints stay, the best one not counted.
        mirror: where each of them is copied to, and where newer ones are looked for.
    """

    def __init__(self, root: Path, keep_last: int = 2, mirror: Mirror | None = None) -> None:
        self.root, self.keep_last, self.mirror = check_local(root), keep_last, mirror
        self.parts = Parts(self.root)

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return path_of(self.root, step)

    def steps(self) -> list[int]:
        """Return the steps of all whole checkpoints, ascending; contents are not read."""
        return [step for step in self._all_steps() if is_whole(self.path(step))]

    def newest(self) -> int | None:
        """Return the step of the newest whole checkpoint, None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> dict[str, Any] | None:
        """Return {"step", "metric", "value"} of the best checkpoint, None if none is marked."""
        newest = self.newest()
        return None if newest is None else read_state(self.path(newest)).get("best")

    def load(self, step: int, *, verify: bool = True) -> Checkpoint:
        """Read the checkpoint after `step` steps.

        Args:
            step: of the checkpoint.
            verify: compare every byte with what was written, unless another process has.

        Raises:
            CheckpointError: if a byte of it is not as it was written.
        """
        found = read_checkpoint(self.path(step), verify=verify)
        if found.state.get("step") != step:
            raise CheckpointError(
                f"{self.path(step)}: holds the checkpoint of step {found.state.get('step')}"
            )
        return found

    def restore(self) -> Checkpoint | None:
        """Read the newest checkpoint whose every byte is as written; None if none was ever made.

        Newer ones that are damaged are named on stderr and kept aside as `damaged-...`.

        Raises:
            CheckpointError: if there are checkpoints and none is whole.
        """
        if self.root.is_dir():
            with writing(self.root):
                self._remove_unfinished()
        self.bring_newer()
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self._all_steps()):
            try:
                found = self._load_or_mend(step)
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for bad, reason in damaged:
                kept = self._set_aside(bad)
                say(f"{reason}; kept aside as {kept.name}, going on from step {step}")
            with writing(self.root):
                self._repeat_best(found.state)
            if self.mirror is not None and step not in self.mirror.steps():
                self._copy(step, found.state)  # what an outage has cost the bucket
            return found
        why = f" ({damaged[0][1]})" if damaged else ""
        if why or any(self.root.glob(f"{_DAMAGED}*")) or (self.root / BEST).exists():
            raise CheckpointError(
                f"{self.root}: no checkpoint is whole{why}; bring one back,"
                " or choose another run_dir to begin again"
            )
        return None

    def _load_or_mend(self, step: int) -> Checkpoint:
        """Read a checkpoint, or its copy where it is damaged."""
        try:
            return self.load(step)
        except CheckpointError as error:
            if self.mirror is None or step not in self.mirror.steps():
                raise
            self.mirror.download(step, self._make_temporary(step))
            self._take(step)
            say(f"{error}; kept aside, its copy is taken")
            return self.load(step)

    def bring_newer(self) -> None:
        """Copy the newest sound checkpoint from the mirror, if it is newer than what is here.

        Raises:
            CheckpointError: if the bucket does not answer, or the copy cannot be written.
        """
        if self.mirror is None:
            return
        newest = self.newest()
        step = self.mirror.download_newest(-1 if newest is None else newest, self._make_temporary)
        if step is not None:
            self._take(step)
            say(f"{self.path(step)}: taken from {self.mirror.url}")

    def bring(self, step: int, *, alone: bool = False) -> None:
        """Copy one checkpoint from the mirror, if there is one and it is not here.

        For a process that does not see the folder of the first, which has looked for the newest.
        One that another run has left here is no substitute.

        Args:
            step: of the checkpoint.
            alone: remove others here, which starts before have brought, and nobody tidies.

        Raises:
            CheckpointError: if it cannot be copied.
        """
        if self.mirror is None:
            return
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            turn = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)  # processes of one host share the folder
            if not is_whole(self.path(step)) or not self.mirror.is_copy(self.path(step)):
                self.mirror.download(step, self._make_temporary(step))
                self._take(step)
            if alone:
                with writing(self.path(step)):
                    for other in set(self._all_steps()) - {step}:
                        self._discard(other)
        finally:
            os.close(turn)

    def _take(self, step: int) -> None:
        with writing(self.path(step)):
            if self.path(step).exists():
                self._set_aside(step)
            self._temporary(step).rename(self.path(step))
            fsync_folder(self.root)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` steps, then delete those that are no longer kept.

        Args:
            step: number of finished optimiser steps.
            tensors: in host memory; each of them whole.
            state: anything JSON can hold.

        Raises:
            CheckpointError: if it cannot be written; nothing of it is left behind.
        """
        self.open(step)
        own = self.write(step, {name: Piece.whole(tensor) for name, tensor in tensors.items()})
        return self.commit(step, own, state)

    def open(self, step: int) -> None:
        """Make an empty folder for the checkpoint after `step` steps, under a temporary name.

        Raises:
            CheckpointError: if it cannot be made.
        """
        self._make_temporary(step)

    def _make_temporary(self, step: int) -> Path:
        with writing(self.path(step)):
            self._remove_unfinished()
            self._temporary(step).mkdir(parents=True)
        return self._temporary(step)

    def mark(self) -> str:
        """Leave a mark in the folder, and return its name; "" if none can be left."""
        name = f"{TEMPORARY}mark-{time.time_ns()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / name).touch()
        except OSError:  # the first save says it
            return ""
        return name

    def sees(self, mark: str) -> bool:
        """Tell whether a mark that another process has left lies in this folder."""
        return bool(mark) and (self.root / mark).exists()

    def unmark(self, mark: str) -> None:
        """Take a mark away."""
        if mark:
            (self.root / mark).unlink(missing_ok=True)

    def write(
        self, step: int, pieces: Mapping[str, Piece], *, part: int = 0, parts: int = 1
    ) -> Written:
        """Write one process's pieces into the folder that the first process has opened.

        Processes but the first leave a note beside the file, of what they wrote or why not.

        Raises:
            CheckpointError: if it cannot be written.
        """
        return self.parts.write(step, pieces, part=part, parts=parts)

    def commit(self, step: int, own: Written, state: Mapping[str, Any], *, parts: int = 1) -> Path:
        """Give the checkpoint its name once all parts are there; deletes those no longer kept.

        Args:
            step: number of finished optimiser steps.
            own: what the first process, which calls this, has written.
            state: anything JSON can hold.
            parts: number of processes that write.

        Raises:
            CheckpointError: if a part is missing or cannot be written; nothing of it is left.
        """
        folder, final = self._temporary(step), self.path(step)
        with writing(final, folder):
            others = self.parts.of_others(step, parts)
            for part in range(1, parts):
                (folder / note_name(part)).unlink()
            write_state(folder, [own, *others], {**state, "step": step})
            if is_whole(final):  # saved, but its copy failed
                self._discard(step)
            elif final.exists():
                self._set_aside(step)
            folder.rename(final)
        with writing(final):
            fsync_folder(self.root)
            self._tidy(state)
        self._copy(step, state)
        return final

    def leave_alone(self) -> None:
        """Have the first process wait for no further part: another process has ended."""
        self.parts.leave_alone()

    def _temporary(self, step: int) -> Path:
        return temporary(self.root, step)

    def settle(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the state of a saved checkpoint, as its evaluation is over.

        Raises:
            CheckpointError: if it cannot be written; the state before stays.
        """
        with writing(self.path(step)):
            replace_state(self.path(step), {**state, "step": step})
            self._tidy(state)
        self._copy(step, state)

    def _copy(self, step: int, state: Mapping[str, Any]) -> None:
        if self.mirror is not None:
            self.mirror.upload(self.path(step), best_step(state))

    def _all_steps(self) -> list[int]:
        if not self.root.is_dir():
            return []
        names = [_NAME.fullmatch(entry.name) for entry in self.root.iterdir()]
        return sorted(int(name[1]) for name in names if name)

    def _set_aside(self, step: int) -> Path:
        for number in range(1000):
            more = f".{number}" if number else ""
            kept = self.root / f"{_DAMAGED}{step:08d}{more}"
            if not kept.exists():
                break
        with writing(kept):
            self.path(step).rename(kept)
        return kept

    def _remove_unfinished(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in self.root.glob(f"{TEMPORARY}*"):
            with suppress(OSError):  # of a folder whose files somebody holds open, over NFS
                _remove(entry)

    def _tidy(self, state: Mapping[str, Any]) -> None:
        self._repeat_best(state)
        steps = self.steps()
        kept = {*steps[-self.keep_last :], best_step(state)}
        for step in set(steps) - kept:
            self._discard(step)

    def _discard(self, step: int) -> None:
        # Renamed first, so that a kill in the middle leaves no half checkpoint behind.
        doomed = self.root / f"{TEMPORARY}old-{step:08d}"
        self.path(step).rename(doomed)
        with suppress(OSError):  # the next save tries again
            _remove(doomed)

    def _repeat_best(self, state: Mapping[str, Any]) -> None:
        best, path = state.get("best"), self.root / BEST
        if best is None:
            path.unlink(missing_ok=True)
            return
        text = json.dumps(best) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_atomically(path, text)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()
