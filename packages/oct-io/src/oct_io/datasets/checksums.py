"""Whether the files of a copy are those of another: hashes in lines as sha256sum and md5sum write.

Publishers such as Zenodo state a hash of each file; a list of one's own says whether the copy of
next year, or of a colleague, is the same.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from oct_io.errors import TreeError
from oct_io.storage.files import join, read_bytes

LINE = re.compile(r"\\?([0-9a-fA-F]{32}|[0-9a-fA-F]{40}|[0-9a-fA-F]{64}) [ *](.+)")
KINDS = {32: "md5", 40: "sha1", 64: "sha256"}
"""Digits of a hash to what made it."""


def hash_files(root: str | Path, paths: Iterable[str], kind: str = "sha256") -> dict[str, str]:
    """Hash of each file below `root`, in the order of `paths`.

    Raises:
        OctIoError: a file cannot be read.
    """
    found = {}
    for path in paths:
        content = read_bytes(join(str(root), path))
        found[path] = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    return found


def digest(hashes: Iterable[str]) -> str:
    """One SHA-256 of all hashes, wherever the files lie and whatever they are called."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def write_list(path: Path, hashes: Mapping[str, str]) -> None:
    """Write a line a file, as `sha256sum --check` reads them."""
    path.write_text("".join(f"{one}  {name}\n" for name, one in hashes.items()), encoding="utf-8")


def read_list(path: Path) -> dict[str, str]:
    """Path to hash, of a list that `write_list`, sha256sum, sha1sum or md5sum wrote.

    Raises:
        TreeError: a line is none of a list, or hashes of several kinds.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        matched = LINE.fullmatch(line)
        if matched is None:
            raise TreeError(f"{path}: line {number} is no hash, two spaces and a path")
        found[matched[2].removeprefix("./")] = matched[1].lower()
    if len({len(one) for one in found.values()}) != 1:
        raise TreeError(f"{path}: it has no hashes, or hashes of several kinds")
    return found


def compare(root: str | Path, paths: Iterable[str], listed: Mapping[str, str]) -> list[str]:
    """What differs between the files below `root` and a list, a sentence each; empty if nothing.

    A list may begin at a folder below `root`, and hold only some of the files.

    Raises:
        OctIoError: a file cannot be read.
    """
    kind = KINDS[len(next(iter(listed.values())))]
    known = {name: path for path in paths if (name := _name_in(path, listed))}
    made = hash_files(root, known.values(), kind)
    differing = [path for name, path in known.items() if made[path] != listed[name]]
    missing = sorted(set(listed) - set(known))
    lines = []
    if differing:
        lines.append(f"{len(differing):,} files differ from the list: {_some(differing)}")
    if missing:
        lines.append(f"{len(missing):,} files of the list are not there: {_some(missing)}")
    return lines


def _name_in(path: str, listed: Mapping[str, str]) -> str:
    """What a list calls a file: its path, or the last parts of it; "" if it does not name it."""
    parts = path.split("/")
    names = ("/".join(parts[first:]) for first in range(len(parts)))
    return next((name for name in names if name in listed), "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
