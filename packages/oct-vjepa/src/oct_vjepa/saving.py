"""Files that appear whole or not at all, even if the power fails.

The three libraries import nothing of each other, so each has its own.
"""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object], *, shared: bool = False) -> None:
    """Let `write` make a draft beside `path`, flush it, and give it its name.

    Args:
        path: the file.
        write: writes to the path that it is given.
        shared: other processes may make the same file at this moment, so the draft carries the
            number of this one. If not, a draft that a kill left behind is written over next time.
    """
    mark = f"-{os.getpid()}" if shared else ""
    draft = path.with_name(f".{path.name}{mark}.draft")
    write(draft)
    flush(draft)
    os.replace(draft, path)


def flush(path: Path) -> None:
    """Wait until the file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
