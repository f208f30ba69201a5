"""Who writes a run folder in a bucket: a file that its writer renews for as long as it lives.

Object stores have no locks that end with a process. So a writer counts up a number in the file, and
who finds the file watches whether it still counts. No clocks are compared. Two that start in the
same second may both begin; the one that the file does not name ends at its next save.
"""

import json
import threading
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from oct_xla.errors import CheckpointError, RunFolderError
from oct_xla.folder.bucket import Bucket
from oct_xla.folder.files import write_atomically
from oct_xla.folder.journal import say

WRITER, OWN = ".writer.json", ".writer"
BEAT_S, SILENT_S = 15.0, 60.0
"""Seconds between two counts, and without one after which the writer counts as gone: a store that
is busy for some beats does not cost a run."""


class Holder(NamedTuple):
    """What the file says.

    Attributes:
        writer: stands for the working folder of the one who wrote last.
        beat: counts up.
        over: whether that one has ended and said so.
    """

    writer: str
    beat: int
    over: bool


class Lease:
    """The right to write a run folder in a bucket.

    A process that was killed and begins again with the same working folder has it at once: that
    folder's own lock says that the other is gone. On another machine it takes `SILENT_S`.

    Args:
        bucket: the run folder.
        folder: on this machine, which stands for it and which this process has locked.
    """

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        self._bucket, self._own = bucket, folder / OWN
        self._writer, self._found, self._beat = "", "", 0
        self._over = threading.Event()
        self._turn = threading.Lock()

    def wait_for_others(self) -> tuple[Holder | None, bool]:
        """Return who wrote last, None if nobody did, and whether that was this working folder.

        Raises:
            RunFolderError: if another process is writing.
            CheckpointError: if the bucket does not answer.
        """
        found = self._read()
        if found is None:
            return None, False
        own = self._own.exists() and self._own.read_text(encoding="utf-8") == found.writer
        self._found, self._beat = found.writer if own else "", found.beat
        if not own and not found.over:
            say(
                f"{self._bucket.url}: another process has not said that it ended; looking for"
                f" {SILENT_S:.0f} s whether it still writes"
            )
            began = time.monotonic()
            while time.monotonic() - began < SILENT_S:
                time.sleep(BEAT_S / 5)
                if self._read() != found:
                    raise RunFolderError(
                        f"{self._bucket.url}: another process is writing this run; wait for it,"
                        " stop it, or set run_dir"
                    )
        return found, own

    def hold(self) -> None:
        """Write down that this process is the writer, and renew it until `end`.

        Raises:
            CheckpointError: if the bucket does not answer.
            RunFolderError: if the working folder cannot be written.
        """
        self._writer = self._found or uuid.uuid4().hex
        try:
            write_atomically(self._own, self._writer)
        except OSError as error:
            raise RunFolderError(f"{self._own}: cannot be written: {error.strerror}") from error
        self._write(over=False)
        threading.Thread(target=self._renew, name="oct-xla-lease", daemon=True).start()

    def check(self) -> None:
        """Ask the bucket whether this process is still the writer.

        Raises:
            RunFolderError: if another one has taken the run over.
            CheckpointError: if the bucket does not answer.
        """
        found = self._read()
        if found is None or found.writer != self._writer:
            self._over.set()
            raise RunFolderError(
                f"{self._bucket.url}: another process has taken this run over; this one ends, and"
                " leaves it alone"
            )

    def end(self) -> None:
        """Write down that this process has ended; who comes next need not wait.

        Raises:
            CheckpointError: if the bucket does not answer.
        """
        if self._writer and not self._over.is_set():
            self._over.set()
            with self._turn:  # a count on its way would come after it
                self._write(over=True)

    def leave(self) -> None:
        """Renew it no more, and say nothing: who comes next from another machine has to look."""
        self._over.set()

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            try:
                with self._turn:
                    if not self._over.is_set():
                        self.check()
                        self._write(over=False)
            except RunFolderError:
                return  # the next save ends with it
            except CheckpointError as error:
                say(f"{error}; the run goes on")

    def _write(self, *, over: bool) -> None:
        self._beat += 1
        held = Holder(self._writer, self._beat, over)
        self._bucket.write(WRITER, json.dumps(held._asdict()).encode())

    def _read(self) -> Holder | None:
        content = self._bucket.read(WRITER)
        if content is None:
            return None
        try:
            return Holder(**json.loads(content))
        except (ValueError, TypeError) as error:
            raise RunFolderError(
                f"{self._bucket.url}/{WRITER}: is damaged; delete it if nobody writes this run"
            ) from error
