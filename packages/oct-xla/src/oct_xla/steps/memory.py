"""Running out of memory: how it shows, how a batch is then cut, and the note that a start reads."""

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from oct_xla.devices.malloc import give_freed_memory_back
from oct_xla.errors import RunFolderError
from oct_xla.folder.bucket import Bucket, is_url
from oct_xla.folder.files import read_json, write_atomically
from oct_xla.folder.journal import say

Found = TypeVar("Found")

NOTE = "memory.json"
"""In the run folder: what a run that ran out of memory takes less of from its next start on."""

BEFORE = "before"
"""In the note: what it was before the guesses in it, which nothing has shown to be right yet."""

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "resource_exhausted",
    "bad_alloc",
    "_status_alloc_failed",  # of CUDA's libraries
    "could not execute a primitive",  # of oneDNN, which takes memory as it computes
)


def out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised from, is a lack of memory."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        text = str(error).lower()
        # oneDNN, which says the same with one more word where it cannot do what was asked for.
        onednn = "could not create a primitive" in text and "descriptor" not in text
        if onednn or any(sign in text for sign in _SIGNS):
            return True
        error = error.__cause__
    return False


def halved(size: int) -> int:
    """Return the next smaller micro-batch of a device: half of an even one, else one sample."""
    return size // 2 if size % 2 == 0 else 1


class Shrinking:
    """How many of something are computed at once: half as often as memory runs out, and so on.

    For what gives the same whatever is computed at once, and waits for no other process, such as
    features for an evaluation. `again(ask)` calls `ask(size)` until it fits, and remembers.

    Args:
        size: to begin with.
        what: is computed, for the line that says so.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, size: int, what: str) -> None:
        if size < 1:
            raise ValueError(f"{what}: {size} at a time; it must be at least 1")
        self.size, self.what = size, what

    def again(self, ask: Callable[[int], Found]) -> Found:
        """Ask with as many as fit.

        Raises:
            RuntimeError, MemoryError: what `ask` raises with one, or for another reason.
        """
        while True:
            try:
                return ask(self.size)
            except (RuntimeError, MemoryError) as error:
                if self.size == 1 or not out_of_memory(error):
                    raise
            # Out here nothing holds what was computed until memory ran out.
            before, self.size = self.size, halved(self.size)
            give_freed_memory_back()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            say(f"{self.what}: out of memory with {before} at a time; going on with {self.size}")


def cut_batch(samples: int, accumulate: int, at_once: int) -> int:
    """Return into how many micro-batches a device's part of the batch is cut.

    Args:
        samples: of one step on one device.
        accumulate: at least as many micro-batches; divides `samples`.
        at_once: most samples of one; 0 for as many as there are.
    """
    parts = accumulate
    while at_once and (samples % parts or samples // parts > at_once):
        parts += 1
    return parts


def read_note(run_dir: Path | str | None) -> dict[str, Any]:
    """Return what was noted in a run folder, which may be the URL of one; nothing without one.

    Raises:
        RunFolderError: if the note is damaged.
        CheckpointError: if a bucket does not answer.
    """
    if run_dir is None:
        return {}
    if not is_url(run_dir):
        path = Path(run_dir) / NOTE
        return read_json(path, RunFolderError) if path.exists() else {}
    content = Bucket(str(run_dir)).read(NOTE)
    try:
        found: dict[str, Any] = json.loads(content or "{}")
    except ValueError as error:
        raise RunFolderError(f"{run_dir}/{NOTE}: is damaged; delete it") from error
    return found


def write_note(run_dir: Path, *, guessed: bool = False, **facts: Any) -> None:
    """Add facts to the note of a run folder; processes that write at once write the same.

    Args:
        run_dir: a folder.
        guessed: nothing has shown yet that memory ran out: what was noted before the first of such
            guesses is kept, for `withdraw`. A fact that is sure makes those before it sure.
        facts: by their names in the note.

    Raises:
        RunFolderError: if it cannot be written.
    """
    note = read_note(run_dir)
    sure = {name: value for name, value in note.items() if name != BEFORE}
    kept = {BEFORE: note.get(BEFORE, sure)} if guessed else {}
    _replace(run_dir, {**sure, **facts, **kept})


def prove(run_dir: Path) -> None:
    """Take guesses for facts: steps that a start has died in came to their end with less.

    Raises:
        RunFolderError: if the note cannot be written.
    """
    if BEFORE in read_note(run_dir):
        write_note(run_dir)


def withdraw(run_dir: Path) -> None:
    """Take guesses back: it was not for what they made less of, or that was not enough.

    Raises:
        RunFolderError: if the note cannot be written.
    """
    note = read_note(run_dir)
    if BEFORE in note:
        _replace(run_dir, note[BEFORE])


def sizes_of(note: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many samples a device may take at once: for sure, and by guesses; 0 for any."""
    sure = note.get(BEFORE, note)
    return int(sure.get("at_once", 0)), int(note.get("at_once", 0))


def _replace(run_dir: Path, note: Mapping[str, Any]) -> None:
    text = json.dumps(note, indent=1) + "\n"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / NOTE, text, by_several=True)
    except OSError as error:
        raise RunFolderError(
            f"{run_dir / NOTE}: cannot be written: {error.strerror}; free space, or raise"
            " loop.accumulate by hand"
        ) from error
