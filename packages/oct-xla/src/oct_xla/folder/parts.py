"""How the files of one checkpoint come together that several processes write."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oct_xla.devices.sharding import Piece
from oct_xla.errors import CheckpointError
from oct_xla.folder.checkpoint import Written, write_part
from oct_xla.folder.files import read_json, write_atomically
from oct_xla.folder.mirror import Mirror

PATIENCE_S = 600.0
"""How long the first process waits for the parts of the others."""
FAR_S = 4 * 3600.0
"""The same of parts that go up into a bucket, as long as none of the others has ended."""
TEMPORARY = ".tmp-"


class Parts:
    """Parts that processes write into one folder, which all of them see.

    Args:
        root: the folder of all checkpoints.
    """

    look_s, patience_s = 0.01, PATIENCE_S
    where = "; all must see run_dir, which may lie in a bucket"

    def __init__(self, root: Path) -> None:
        self.root = root
        self._alone = threading.Event()

    def write(self, step: int, pieces: Mapping[str, Piece], *, part: int, parts: int) -> Written:
        """Write one process's pieces; all but the first leave a note of it, or why it failed.

        Raises:
            CheckpointError: if they cannot be written.
        """
        note: dict[str, Any] = {}
        try:
            written = self._write(step, pieces, part, parts)
            note = written._asdict()
        except CheckpointError as error:
            note = {"error": f"process {part}: {error}"}
            raise
        finally:
            if part and note:
                with suppress(OSError, CheckpointError):  # the first waits in vain, and says so
                    self._leave_note(step, note_name(part), json.dumps(note))
        return written

    def _write(self, step: int, pieces: Mapping[str, Piece], part: int, parts: int) -> Written:
        folder = temporary(self.root, step)
        with writing(path_of(self.root, step), folder if part == 0 else None):
            return write_part(folder, pieces, part=part, parts=parts)

    def _leave_note(self, step: int, name: str, content: str) -> None:
        write_atomically(temporary(self.root, step) / name, content)

    def _read_note(self, step: int, name: str) -> dict[str, Any] | None:
        note = temporary(self.root, step) / name
        return read_json(note, CheckpointError) if note.exists() else None

    def of_others(self, step: int, parts: int) -> list[Written]:
        """Wait for what all processes but the first have written.

        Raises:
            CheckpointError: if one of them failed, has ended, or takes too long.
        """
        return [self._wait_for(step, part) for part in range(1, parts)]

    def leave_alone(self) -> None:
        """Have the first process wait for no further part: another process has ended."""
        self._alone.set()

    def _wait_for(self, step: int, part: int) -> Written:
        began, place = time.monotonic(), path_of(self.root, step)
        while (content := self._read_note(step, note_name(part))) is None:
            if self._alone.is_set():
                raise CheckpointError(f"{place}: a process has ended before its part")
            if time.monotonic() - began > self.patience_s:
                raise CheckpointError(
                    f"{place}: process {part} has not written its part in {self.patience_s:.0f} s"
                    f"{self.where}"
                )
            time.sleep(self.look_s)
        if "error" in content:
            raise CheckpointError(content["error"])
        return Written(**content)


class PartsInBucket(Parts):
    """Parts that processes put into a bucket, each from a disk of its own, with their notes.

    Args:
        root: folder on this machine, for a part on its way.
        mirror: the checkpoints in the bucket.
    """

    look_s, patience_s, where = 0.5, FAR_S, ""

    def __init__(self, root: Path, mirror: Mirror) -> None:
        super().__init__(root)
        self._mirror = mirror

    def _write(self, step: int, pieces: Mapping[str, Piece], part: int, parts: int) -> Written:
        folder = self.root / f"{TEMPORARY}part-{part:05d}"  # processes of one host have one root
        with writing(path_of(self.root, step), folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            written = write_part(folder, pieces, part=part, parts=parts)
        try:
            self._mirror.put_part(step, folder / written.file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return written

    def _leave_note(self, step: int, name: str, content: str) -> None:
        self._mirror.leave_note(step, name, content)

    def _read_note(self, step: int, name: str) -> dict[str, Any] | None:
        content = self._mirror.read_note(step, name)
        return None if content is None else dict(json.loads(content))


def note_name(part: int) -> str:
    """Name of the note of one process."""
    return f"part-{part:05d}.json"


def path_of(root: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps."""
    return root / f"step-{step:08d}"


def temporary(root: Path, step: int) -> Path:
    """Folder of a checkpoint that is being written."""
    return root / f"{TEMPORARY}{step:08d}"


@contextmanager
def writing(path: Path, doomed: Path | None = None) -> Iterator[None]:
    """Turn a refusal of the disk into one line; `doomed` does not outlive any error."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror or error}; free space or choose another"
            " run_dir, the checkpoints before it are untouched"
        ) from error
    finally:
        # After a commit there is nothing under that name.
        if doomed is not None and sys.exc_info()[0] is not None:
            shutil.rmtree(doomed, ignore_errors=True)
