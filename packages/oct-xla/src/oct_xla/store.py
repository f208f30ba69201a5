"""The folder of a run's checkpoints: which are whole, which are kept, which is best."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from oct_xla.checkpoint import (
    Checkpoint,
    is_whole,
    read_checkpoint,
    read_state,
    replace_state,
    write_checkpoint,
)
from oct_xla.errors import CheckpointError
from oct_xla.files import check_local, fsync_folder, write_atomically
from oct_xla.journal import say

BEST = "best.json"
_PREFIX, _TEMPORARY, _DAMAGED = "step-", ".tmp-", "damaged-"
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
    """

    def __init__(self, root: Path, keep_last: int = 2) -> None:
        self.root, self.keep_last = check_local(root), keep_last

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.root / f"{_PREFIX}{step:08d}"

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

    def load(self, step: int) -> Checkpoint:
        """Read the checkpoint after `step` steps.

        Raises:
            CheckpointError: if a byte of it is not as it was written.
        """
        found = read_checkpoint(self.path(step))
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
            with _writing(self.root):
                self._remove_unfinished()
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self._all_steps()):
            try:
                found = self.load(step)
            except CheckpointError as error:
                damaged.append((step, error))
                continue
            for bad, reason in damaged:
                kept = self._set_aside(bad)
                say(f"{reason}; kept aside as {kept.name}, going on from step {step}")
            with _writing(self.root):
                self._repeat_best(found.state)
            return found
        why = f" ({damaged[0][1]})" if damaged else ""
        if why or any(self.root.glob(f"{_DAMAGED}*")) or (self.root / BEST).exists():
            raise CheckpointError(
                f"{self.root}: no checkpoint is whole{why}; bring one back,"
                " or choose another run_dir to begin again"
            )
        return None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` steps, then delete those that are no longer kept.

        Args:
            step: number of finished optimiser steps.
            tensors: in host memory; each of them whole.
            state: anything JSON can hold.

        Raises:
            CheckpointError: if it cannot be written; nothing of it is left behind.
        """
        temporary, final = self.root / f"{_TEMPORARY}{step:08d}", self.path(step)
        with _writing(final):
            self._remove_unfinished()
            try:
                temporary.mkdir(parents=True)
                write_checkpoint(temporary, tensors, {**state, "step": step})
                if final.exists():  # damaged, or else there would be nothing to save
                    self._set_aside(step)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            fsync_folder(self.root)
            self._tidy(state)
        return final

    def settle(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the state of a saved checkpoint, as its evaluation is over.

        Raises:
            CheckpointError: if it cannot be written; the state before stays.
        """
        with _writing(self.path(step)):
            replace_state(self.path(step), {**state, "step": step})
            self._tidy(state)

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
        with _writing(kept):
            self.path(step).rename(kept)
        return kept

    def _remove_unfinished(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in self.root.glob(f"{_TEMPORARY}*"):
            _remove(entry)

    def _tidy(self, state: Mapping[str, Any]) -> None:
        self._repeat_best(state)
        best, steps = state.get("best"), self.steps()
        kept = set(steps[-self.keep_last :]) | ({best["step"]} if best else set())
        for step in set(steps) - kept:
            # Renamed first, so that a kill in the middle leaves no half checkpoint behind.
            doomed = self.root / f"{_TEMPORARY}old-{step:08d}"
            self.path(step).rename(doomed)
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; free space or choose another"
            " run_dir, the checkpoints before it are untouched"
        ) from error
