"""Files that appear whole or not at all, even if the power fails.

The three libraries import nothing of each other, so each has its own.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


def write_whole(path: Path, write: Callable[[Path], object], *, shared: bool = False) -> None:
    """Let `write` make a draft beside `path`, flush it, and give it its name.

    Args:
        path: the file.
        write: writes to the path that it is given.
        shared: other processes may make the same file at this moment, so the draft carries the
            number of this one. If not, a draft that a kill left behind is written over next time.

    Raises:
        OSError: the disk does not take it; it names the file, and no draft is left.
    """
    mark = f"-{os.getpid()}" if shared else ""
    draft = path.with_name(f".{path.name}{mark}.draft")
    try:
        with naming(path):
            write(draft)
            flush(draft)
            os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)  # on a full disk it takes the room that is wanted
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_whole` does."""
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the error of a disk that does not take a file name it; safetensors has one of its own.

    Raises:
        OSError: with the name of the file.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.search(r"os error (\d+)", str(error))
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def flush(path: Path) -> None:
    """Wait until the file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
