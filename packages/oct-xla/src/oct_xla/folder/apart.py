"""Checkpoints of processes that have a bucket in common, and no folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oct_xla.errors import CheckpointError
from oct_xla.folder.checkpoint import Written, best_step, replace_state, write_state
from oct_xla.folder.journal import say
from oct_xla.folder.mirror import Mirror
from oct_xla.folder.parts import PartsInBucket, note_name, path_of, temporary, writing
from oct_xla.folder.store import Checkpoints


class CheckpointsApart(Checkpoints):
    """Checkpoints of which each process puts its part into the bucket, as hosts of a pod do.

    So no host holds, sends or writes more than its part, and none has a whole checkpoint but the
    one that the run was taken up from. What the bucket's commit vouches for is saved, nothing else.

    Args:
        root: folder on this machine.
        keep_last: how many checkpoints stay, the best one not counted.
        mirror: the checkpoints in the bucket.
    """

    def __init__(self, root: Path, keep_last: int, mirror: Mirror) -> None:
        super().__init__(root, keep_last, mirror)
        self._bucket = mirror
        self.parts = PartsInBucket(self.root, mirror)

    def open(self, step: int) -> None:
        """Make room for the checkpoint after `step` steps, here and in the bucket.

        Raises:
            CheckpointError: if it cannot be made.
        """
        super().open(step)
        self._bucket.begin(step)

    def commit(self, step: int, own: Written, state: Mapping[str, Any], *, parts: int = 1) -> Path:
        """Commit the checkpoint in the bucket once all parts are there; see `Checkpoints.commit`.

        Raises:
            CheckpointError: if a part is missing, or the bucket does not take it.
        """
        folder, final = temporary(self.root, step), path_of(self.root, step)
        with writing(final, folder):
            write_state(folder, [own, *self.parts.of_others(step, parts)], {**state, "step": step})
        notes = [note_name(part) for part in range(1, parts)]
        self._send_state(step, folder, state, notes)
        try:
            self._forget()
        except (CheckpointError, OSError) as error:  # what is committed is saved
            say(f"{final}: older checkpoints stay here: {error}")
        return final

    def settle(self, step: int, state: Mapping[str, Any]) -> None:
        """Replace the state of a saved checkpoint in the bucket, as its evaluation is over.

        Raises:
            CheckpointError: if it cannot be written; the state before stays.
        """
        folder = self._make_temporary(step)
        with writing(path_of(self.root, step), folder):
            self._bucket.read_commit(step, folder)
            replace_state(folder, {**state, "step": step})
        self._send_state(step, folder, state)

    def _send_state(
        self, step: int, folder: Path, state: Mapping[str, Any], notes: list[str] | None = None
    ) -> None:
        try:
            self._bucket.commit(step, folder, best_step(state), notes or [])
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with writing(path_of(self.root, step)):
            self._repeat_best(state)

    def _forget(self) -> None:
        """Delete what the run was taken up from, once the bucket has newer ones."""
        if here := set(self.steps()):  # there is nothing after the first saves of a start
            for step in here - set(self._bucket.steps()):
                self._discard(step)
