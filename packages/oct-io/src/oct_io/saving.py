"""Files that appear whole under their name, or not at all.

The three libraries import nothing of each other, so each has its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing(path: Path, *, durable: bool = False, private: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to; the file there takes its place when the block ends.

    If the block fails, what stood at `path` stays as it was, and nothing is left beside it.

    Args:
        path: the file to write; its folder must exist.
        durable: whether the content is on disk before it has its name, which takes milliseconds.
        private: whether nobody else may read it, as where paths may name people.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if private:
            part.touch(mode=0o600)
        yield part
        if durable:
            sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
