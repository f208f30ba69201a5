"""Taking a run up and saving it, on all processes alike."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from oct_xla.devices.runtime import Runtime
from oct_xla.devices.sharding import Piece
from oct_xla.errors import CheckpointError, RunFolderError
from oct_xla.folder.apart import CheckpointsApart
from oct_xla.folder.checkpoint import Checkpoint
from oct_xla.folder.identity import (
    check_processes,
    check_resumed,
    differences,
    passes_of,
    shorten,
)
from oct_xla.folder.journal import say
from oct_xla.folder.store import Checkpoints
from oct_xla.folder.writing import Writing
from oct_xla.steps.learner import Learner

COPY_S = 300.0
"""How long a run that was asked to stop waits for the copy of its last checkpoint in a bucket."""


@dataclass(kw_only=True, slots=True)
class RunState:
    """Where a run stands; a checkpoint keeps all of it beside the tensors."""

    step: int = 0
    """Finished optimiser steps."""

    skipped: int = 0
    """Steps that were not applied, and how many of them in a row just now."""

    skipped_in_a_row: int = 0

    losses: list[float] = field(default_factory=list)
    """Of the last steps that were applied, where `loop.max_jump` wants them."""

    seconds: float = 0.0
    """Seconds of training."""

    best: dict[str, Any] | None = None
    """Step, metric and value of the best checkpoint."""

    waited: int = 0
    """Evaluations in a row without progress of the best metric."""

    reached: float | None = None
    """The best metric at its last progress."""

    row: dict[str, float] = field(default_factory=dict)
    """The last row of metrics."""

    at_once: int = 0
    """Samples that a device takes at once since memory ran out; 0 where it has not."""

    pending: bool = False
    """Whether the evaluation after `step` is not in `row` yet."""


class Checkpointer:
    """Takes a run up where its newest whole checkpoint stands, and saves it.

    Args:
        store: the folder; None saves nothing.
        runtime: the first process writes, and the others wait for it; or all write what they hold
            where parameters are cut and all see the folder, or have a bucket.
        identity: from `describe_run`; compared with that of a checkpoint and of other processes.
        settings: what else the run is made with; on a resume, what has changed is told.

    Attributes:
        copied: False once the run has ended with a checkpoint whose copy has failed.
        stopping: tells whether the run is asked to stop, so that copies in buckets can wait.
    """

    def __init__(
        self,
        store: Checkpoints | None,
        runtime: Runtime,
        identity: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        self.store, self._runtime, self.copied = store, runtime, True
        self.stopping: Callable[[], bool] = lambda: False
        self._identity, self._settings = identity, dict(settings)
        self._saved = -1
        self._failure = ""
        self._pending: int | None = None  # the step that is being saved, on all processes alike
        self._writing: Writing | None = None
        self._told = False
        self._parts, self._sees, self._elsewhere = runtime.writers, True, False

    def find(self, failure: str = "") -> Checkpoint | None:
        """Return the checkpoint to go on from, the same on every process, None to begin.

        Args:
            failure: why this process cannot start; all processes then end with it.

        Raises:
            CheckpointError: if none is whole, or the newest whole one is of another run.
            RunFolderError: with `failure`.
            OctXlaError: if the processes differ in identity.
        """
        found: Checkpoint | None = None
        if self.store is not None and self._runtime.rank == 0 and not failure:
            try:
                found = self.store.restore()
            except CheckpointError as error:
                self._failure = str(error)
        step = -1 if found is None else int(found.state["step"])
        own = {"facts": self._identity, "step": step, "bad": self._failure, "busy": failure}
        every = [json.loads(text) for text in self._runtime.share(json.dumps(own))]
        for kind, error_type in (("busy", RunFolderError), ("bad", CheckpointError)):
            if texts := [one[kind] for one in every if one[kind]]:
                raise error_type(texts[0])
        check_processes([one["facts"] for one in every])
        if not self._meet() and self._parts > 1 and self.store is not None:
            if self.store.mirror is None:
                self._parts = 1  # one process writes all of it
            else:
                self.store = CheckpointsApart(
                    self.store.root, self.store.keep_last, self.store.mirror
                )
        step = every[0]["step"]
        if self.store is None or step < 0:
            return None
        if self._runtime.rank != 0:
            found = self._load_elsewhere(step)
        bad = (
            f"{self.store.path(step)}: a process cannot read it; all must see run_dir, which may"
            " lie in a bucket"
        )
        if self._runtime.agree(int(found is None))[0] or found is None:
            raise CheckpointError(self._failure or bad)
        return found

    def _meet(self) -> bool:
        """Tell, on all processes alike, whether each one sees the folder that the first one has."""
        if self.store is None or self._runtime.world == 1:
            return True
        own = self.store.mark() if self._runtime.rank == 0 else ""
        mark = self._runtime.share(own)[0]
        self._sees = self.store.sees(mark)
        self._elsewhere = bool(mark) and not self._sees
        blind = self._runtime.agree(int(not self._sees))[0]
        self.store.unmark(own)
        return not blind

    def _load_elsewhere(self, step: int) -> Checkpoint | None:
        assert self.store is not None
        try:
            if self._sees:
                return self.store.load(step, verify=False)  # the first process has
            self.store.bring(step, alone=self._elsewhere)
            return self.store.load(step)
        except CheckpointError as error:
            self._failure = (
                f"process {self._runtime.rank}: {error}; all must see run_dir, which may lie in a"
                " bucket"
            )
            return None

    def restore(self, found: Checkpoint | None, learner: Learner) -> RunState:
        """Put a checkpoint back into the learner; returns where the run stands.

        Raises:
            CheckpointError: if it belongs to another run; each fact that differs is named.
        """
        if found is None or self.store is None:
            return RunState()
        state = dict(found.state)
        where = str(self.store.path(state["step"]))
        try:
            identity, settings = state.pop("identity"), state.pop("settings")
            run = RunState(**state)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{where}: not made by this version of oct-xla ({error}); choose another run_dir"
            ) from error
        check_resumed(identity, self._identity, where)
        if learner.coupled:
            check_resumed(passes_of(settings), passes_of(self._settings), where)
        learner.restore(found.tensors, where)
        self._saved = run.step
        changed = differences(settings, json.loads(json.dumps(self._settings)))
        if changed and self._runtime.rank == 0:
            facts = ", ".join(
                f"{key} {shorten(c.before)} -> {shorten(c.now)}" for key, c in changed.items()
            )
            say(f"{where}: going on with {facts}")
        return run

    def has(self, step: int) -> bool:
        """Tell whether the checkpoint after `step` steps was saved or restored."""
        return self._saved == step

    def begin(self, run: RunState, learner: Learner) -> None:
        """Copy where the run stands to host memory and have it written beside the training.

        One save at most is in flight: this waits for the one before. All processes call it.
        """
        if self.store is None or run.step in (self._saved, self._pending):
            return
        self.finish()
        rank, parts = self._runtime.rank, self._parts
        pieces = learner.pieces(whole=parts == 1)
        self._failure, self._told, self._pending = "", False, run.step
        if rank == 0:
            try:
                self.store.open(run.step)
            except CheckpointError as error:
                self._failure = str(error)
        # Nobody writes into a folder that is not there yet.
        if parts > 1 and self._runtime.agree(int(bool(self._failure)))[0]:
            self._failure = self._failure or "the first process could not begin the save"
        elif rank < parts and not self._failure:
            self._writing = Writing(partial(self._write, run.step, pieces, self._state(run)))

    def _write(self, step: int, pieces: Mapping[str, Piece], state: Mapping[str, Any]) -> None:
        assert self.store is not None
        rank, parts = self._runtime.rank, self._parts
        own = self.store.write(step, pieces, part=rank, parts=parts)
        if rank == 0:
            self.store.commit(step, own, state, parts=parts)

    def poll(self) -> None:
        """Say that the save in flight has failed, if it has; never waits."""
        if self._writing is not None and self._writing.failed:
            self._failure, self._writing = self._writing.wait(), None
        if self._failure and self._pending is not None and not self._told:
            self._told = True
            if self._runtime.rank == 0:
                say(f"step {self._pending} is not saved, the run goes on: {self._failure}")

    def finish(self, *, last: bool = False, copy_s: float | None = None) -> bool:
        """Wait for the save in flight, on all processes; tells whether there is none that failed.

        Args:
            last: leave it to the caller to say that it failed.
            copy_s: most seconds for its copy in a bucket, once it lies here; else until it is over.
        """
        if self._pending is None:
            return True
        if self._writing is not None:
            self._failure, self._writing = self._end_of(self._writing, copy_s), None
        # Nobody goes on, or ends, before the checkpoint is whole.
        busy, failed = 1, 0
        while busy:
            busy, failed = self._runtime.agree(0, int(bool(self._failure)))
        if not failed:
            self._saved = self._pending
        elif not last:
            self.poll()
        self._pending = None
        return not failed

    def _end_of(self, writing: Writing, copy_s: float | None) -> str:
        """Wait for a save, for its copy no longer than asked, or than the run is to go on."""

        def enough() -> bool:
            leaving = copy_s is not None or self.stopping()
            return leaving and self._lies_here(self._pending)

        def look() -> None:  # who is gone is noticed, and what it was to write not waited for
            self._runtime.agree(1, 0)

        failure = writing.wait_for(enough, then_s=copy_s or 0.0, look=look)
        return f"no copy in {copy_s or 0.0:.0f} s" if failure is None else failure

    def _lies_here(self, step: int | None) -> bool:
        return self.store is not None and self.store.newest() == step

    def _lies_here_for_all(self, step: int) -> bool:
        """Tell, on all processes alike, whether the first one has the checkpoint."""
        here = self._runtime.rank == 0 and self._lies_here(step)
        return bool(self._runtime.agree(int(here))[0])

    def save(
        self, run: RunState, learner: Learner, *, last: bool = False, copy_s: float | None = None
    ) -> bool:
        """Save where the run stands, unless that is done, and wait; tells whether it is saved.

        A disk that refuses is named on stderr, unless this is the last try, and the run may go on.
        """
        if self.store is None or self._saved == run.step:
            return True
        if self._pending == run.step:
            if self.finish(last=last, copy_s=copy_s):
                return True
            if copy_s is not None and self._lies_here_for_all(run.step):
                return False
        self.begin(run, learner)
        return self.finish(last=last, copy_s=copy_s)

    def left_alone(self) -> None:
        """Wait no longer for what other processes write, as one of them has ended."""
        if self.store is not None:
            self.store.leave_alone()

    def close(self) -> None:
        """Wait for what is being written, whatever has ended the run."""
        if self._writing is not None:
            self._writing.wait()

    def must_save(self, run: RunState, learner: Learner, *, stopping: bool = False) -> None:
        """Save where the run stands, as it ends here.

        Args:
            run: where it stands.
            learner: what is saved.
            stopping: it ends because it was asked to, and goes on later: that the checkpoint lies
                on this machine, though its copy failed, is enough, and is said. A machine that is
                taken away gives half a minute, so nobody waits for copies before it lies here. So
                it is if that is asked while the last copy is on its way.

        Raises:
            CheckpointError: if it cannot be saved.
        """
        if stopping and self._pending not in (None, run.step):
            self.finish(last=True, copy_s=0.0)  # what comes now counts more than that one's copy
        if self.save(run, learner, last=True, copy_s=COPY_S if stopping else None):
            return
        reason = self._failure or "the first process could not save the run"
        stopping = bool(self._runtime.agree(int(stopping or self.stopping()))[0])
        if not (stopping and self._lies_here_for_all(run.step)):
            raise CheckpointError(reason)
        self.copied = False
        if self._runtime.rank == 0:
            say(f"step {run.step} is saved on this machine only: {reason}")

    def settle(self, run: RunState) -> None:
        """Write down that the evaluation after the saved step is over; never ends the run."""
        if self.store is None or self._saved != run.step or self._runtime.rank != 0:
            return
        try:
            self.store.settle(run.step, self._state(run))
        except CheckpointError as error:
            say(f"the evaluation of step {run.step} is not written down: {error}")

    def _state(self, run: RunState) -> dict[str, Any]:
        return {**asdict(run), "identity": self._identity, "settings": self._settings}
