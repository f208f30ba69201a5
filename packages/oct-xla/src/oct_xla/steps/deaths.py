"""A process that dies in its first steps without a word: the mark by which its next start knows.

Where XLA finds no memory it may abort the process (SIGABRT, 134) or run into a segmentation fault
(SIGSEGV, 139), and where a machine has none left Linux kills one (SIGKILL, 137). No line of Python
runs then. So a start marks its first steps: a fault adds itself to the mark, as the interpreter's
fault handler writes without Python, and of its own kills Linux keeps count. A death that left
neither, such as `kill -9`, is none of memory.
"""

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from oct_xla.folder.journal import say

MARK = ".first-steps-{rank}.tmp"
"""In the run folder, one a process; what is called so is never copied to a bucket."""

BOOT, COUNTS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/vmstat")
_FATAL = "Fatal Python error: "  # as the fault handler has it
_FAULTS = {
    "Aborted": "aborted (SIGABRT, 134)",
    "Segmentation fault": "ended by a segmentation fault (SIGSEGV, 139)",
}
_KILLS = "oom_kill "


class Death(NamedTuple):
    """How the start before this one ended.

    Attributes:
        step: that it had begun, or had begun last of those that were not known to be finished.
        at_once: samples that each device took at once.
        how: in words.
    """

    step: int
    at_once: int
    how: str


class Mark:
    """Marks steps that nobody knows to be finished yet, in a file that outlives the process.

    Args:
        run_dir: where it lies; None marks nothing.
        rank: of this process.
        faults: whether a fault may be a lack of memory. NCCL aborts where another process hangs.
    """

    def __init__(self, run_dir: Path | None, rank: int, *, faults: bool) -> None:
        self._path = None if run_dir is None else run_dir / MARK.format(rank=rank)
        self._faults, self._file = faults, -1
        self._handled = False

    def read(self) -> Death | None:
        """Take away the mark of the start before; returns how that one died, if for its memory."""
        if self._path is None or not self._path.exists():
            return None
        head, _, added = self._path.read_text(encoding="utf-8", errors="replace").partition("\n")
        self._path.unlink()
        try:
            facts: dict[str, Any] = json.loads(head)
            step, at_once = int(facts["step"]), int(facts["at_once"])
        except (ValueError, KeyError, TypeError):  # cut off as it was written
            return None
        for fault, how in _FAULTS.items() if self._faults else ():
            if _FATAL + fault in added:
                sys.stderr.write(f"what the last start has left of its end:\n{added.rstrip()}\n")
                return Death(step, at_once, how)
        now, before = _kills(), facts.get("kills")
        if now and before and now[0] == before[0] and now[1] > before[1]:
            return Death(step, at_once, "killed as the machine had no memory left (SIGKILL, 137)")
        return None

    def set(self, step: int, at_once: int) -> None:
        """Mark a step that begins, counted from 1, in place of one that is marked."""
        if self._path is None:
            return
        facts = {"step": step, "at_once": at_once, "kills": _kills()}
        try:
            if self._file < 0:
                self._open(self._path)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{json.dumps(facts)}\n".encode())
        except OSError as error:  # no mark is worth a run
            say(f"{self._path}: {error.strerror}; should memory run out now, nobody will know")
            self.clear()
            self._path = None

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Appended to, by whoever writes: the fault handler does not look for the end.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if self._faults:
            self._handled = faulthandler.is_enabled()
            faulthandler.enable(file=self._file)

    def clear(self) -> None:
        """Take the mark away: its steps are finished, or an exception tells what became of them."""
        if self._file < 0 or self._path is None:
            return
        if self._faults:
            faulthandler.disable()
            if self._handled:
                faulthandler.enable(file=2)
        os.close(self._file)
        self._file = -1
        self._path.unlink(missing_ok=True)


def _kills() -> list[Any]:
    """Which boot of Linux this is, and how many processes it has killed for memory since."""
    try:
        lines = COUNTS.read_text(encoding="utf-8").splitlines()
        boot = BOOT.read_text(encoding="utf-8").strip()
    except OSError:  # no Linux
        return []
    counts = [int(line.removeprefix(_KILLS)) for line in lines if line.startswith(_KILLS)]
    return [boot, *counts] if counts else []
