"""How a device's part of the batch is cut so that it fits in memory; the batch itself stays."""

import json
from pathlib import Path

from oct_xla.devices.malloc import give_freed_memory_back
from oct_xla.devices.runtime import Runtime
from oct_xla.errors import OutOfMemoryError
from oct_xla.folder.journal import say
from oct_xla.steps.deaths import Death, Mark
from oct_xla.steps.failures import TooLarge
from oct_xla.steps.memory import (
    cut_batch,
    halved,
    prove,
    read_note,
    sizes_of,
    withdraw,
    write_note,
)
from oct_xla.telling.compiling import WARM_UP

_NO_LIMIT = 2**31
_CURE = (
    "take a smaller model or volume, let it compute blocks again in the backward pass, or cut it"
    " with parallel=fsdp"
)


class Cutting:
    """Cuts the batch into as few micro-batches as fit, all processes alike.

    What memory has taught is kept: what is sure in checkpoints and in the note of the run folder,
    what is guessed from how the start before has died in the note alone.

    Args:
        samples: of a step on one device.
        accumulate: at least as many micro-batches; divides `samples`.
        runtime: whose processes agree.
        run_dir: for the note; None keeps nothing.
        sure: samples that a device takes at once, by the checkpoint; 0 for no limit.
        coupled: whether the loss compares the samples of a micro-batch: none is made smaller then.

    Attributes:
        sure: the same as it is now known.
    """

    def __init__(
        self,
        samples: int,
        accumulate: int,
        runtime: Runtime,
        run_dir: Path | None,
        sure: int,
        *,
        coupled: bool,
    ) -> None:
        self._samples, self._accumulate, self._runtime = samples, accumulate, runtime
        self._coupled, self._run_dir, self._first, self._proven = coupled, run_dir, 0, False
        self._mark = Mark(run_dir, runtime.rank, faults=runtime.name == "xla")
        noted = [[one for one in (sure, size) if one] for size in sizes_of(read_note(run_dir))]
        fewest = runtime.agree(*(-min(known, default=_NO_LIMIT) for known in noted))
        self.sure, self._now = (0 if one == -_NO_LIMIT else -one for one in fewest)

    @property
    def parts(self) -> int:
        """Micro-batches of a step."""
        return cut_batch(self._samples, self._accumulate, self._now)

    @property
    def size(self) -> int:
        """Samples of one micro-batch on a device."""
        return self._samples // self.parts

    def begin(self) -> None:
        """Take less where the start before has died in its first steps as if for memory.

        Raises:
            OutOfMemoryError: if it took one sample at a time, or no less may be taken; guesses
                before it are taken back.
        """
        told = self._runtime.share(json.dumps(self._mark.read()))
        deaths = [Death(*one) for one in map(json.loads, told) if one]
        if deaths:
            self._heed(max(deaths, key=lambda death: death.at_once))
        if self._now:
            give_freed_memory_back()

    def _heed(self, death: Death) -> None:
        before, size = self.parts, death.at_once
        found = f"the last start was {death.how} in step {death.step}, "
        if self._run_dir is None or (size > 1 and self.size <= halved(size)):
            return  # somebody has seen to it
        if size == 1 or self._coupled:
            withdraw(self._run_dir)
            raise OutOfMemoryError(
                f"{found}with {_counted(size)} at a time; if memory ran out, {self._cure(size)}; if"
                " not, its own last lines say why; the same command tries again, with the batch as"
                " it was",
                again=False,
                guessed=True,
            )
        self._now = halved(size)
        write_note(self._run_dir, guessed=True, at_once=self._now)
        if self._runtime.rank == 0:
            say(
                f"{found}with {size} samples at a time, perhaps for lack of memory; going on with"
                f" loop.accumulate {before} -> {self.parts}, the batch stays"
            )

    def step(self, number: int) -> None:
        """Say that a step begins, counted from 1."""
        self._first = self._first or number
        if number < self._first + WARM_UP:  # these compile, and take memory for the first time
            self._mark.set(number, self.size)

    def finished(self, number: int) -> None:
        """Say that this step and all before it are known to be finished."""
        self._mark.clear()
        if self._proven or number + 1 < self._first + WARM_UP:
            return
        self._proven, self.sure = True, self._now
        if self._run_dir is not None:
            prove(self._run_dir)

    def close(self) -> None:
        """Say that this process ends, or goes on, in its own words."""
        self._mark.clear()

    def halve(self, step: int, large: TooLarge) -> None:
        """Go on with micro-batches of half the size, or of one sample.

        Raises:
            OutOfMemoryError: if they hold one sample already, if the loss compares those that they
                hold, or if only a new start helps.
        """
        before, size = self.parts, self.size
        if size == 1 or self._coupled:
            raise OutOfMemoryError(
                f"step {step}: out of memory with {_counted(size)} at a time; {self._cure(size)}",
                again=False,
            ) from large
        self.sure = self._now = halved(size)
        give_freed_memory_back()
        found = f"step {step}: out of memory with {size} samples at a time"
        change = f"loop.accumulate {before} -> {self.parts}, the batch stays"
        if not large.everywhere:
            self._leave(f"{found}, in the middle of it", change, large)
        if self._runtime.rank == 0:
            say(f"{found}; going on with {change}")

    def _cure(self, size: int) -> str:
        """What people can do where no smaller micro-batch is taken."""
        if size == 1:
            return _CURE
        parts = cut_batch(self._samples, self._accumulate, halved(size))
        return (
            "this objective compares them with each other, so with fewer it is another run: begin"
            f" that in another run_dir with loop.accumulate={parts}, or {_CURE}"
        )

    def _leave(self, found: str, change: str, large: TooLarge) -> None:
        if self._run_dir is None:
            raise OutOfMemoryError(f"{found}; start again with {change}", again=False) from large
        write_note(self._run_dir, at_once=self.sure)
        raise OutOfMemoryError(
            f"{found}; the same command goes on from the newest checkpoint with {change}",
            again=True,
        ) from large


def _counted(size: int) -> str:
    return "one sample" if size == 1 else f"{size} samples"
