"""Files below a folder of this machine: which links are followed, and what is passed over.

A link to a file counts as that file, wherever it leads. A link to a folder is followed where it
stays below the root and leads to what is not listed by itself, such as a hidden store: so no scan
is found twice, and no circle is gone round.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from oct_io.storage.outages import with_retries

LOG = logging.getLogger("oct_io")
OUT = "links to folders out of the root (give the folder that they lead to)"
AGAIN = "links to folders that are listed where they lie"
CLOSED = "folders that cannot be listed"
SPECIAL = "pipes, sockets or devices"


def list_disk(filesystem: Any, base: str) -> dict[str, Mapping[str, Any]]:
    """Size and time of change of all files below a folder, by relative path.

    What is not entered is counted in one line of the log.

    Raises:
        OSError: `base` cannot be listed.
    """
    listing = _DiskListing(filesystem, base)
    if listing.passed:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in listing.passed.most_common())
        LOG.warning("not entered: %s", kinds)
    return listing.files


def files_in(filesystem: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """Size and time of change of the files in a folder, by name; links to files are files.

    Raises:
        OSError: it cannot be listed.
    """
    entries = _entries(filesystem, path)
    plain = [one for one in entries if not (_leads_to_folder(one) or _is_special(one))]
    return {one.name: state for one in plain if (state := _state_of(one)) is not None}


def is_hidden(path: str) -> bool:
    """Whether a file or a folder on the way to it is hidden, as systems hide what is their own."""
    return any(part.startswith(".") for part in path.split("/"))


class _DiskListing:
    """All files below a folder, and counts of what was not entered, by kind."""

    def __init__(self, filesystem: Any, base: str) -> None:
        self.files: dict[str, Mapping[str, Any]] = {}
        self.passed: Counter[str] = Counter()
        self._filesystem, self._base = filesystem, base
        self._links: list[str] = []
        self._entered: set[str] = set()
        top = os.path.realpath(base)
        self._descend("", top)
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link, top)

    def _follow(self, link: str, top: str) -> None:
        real = os.path.realpath(f"{self._base}/{link}")
        if real != top and not real.startswith(top.rstrip("/") + "/"):
            self.passed[OUT] += 1
        elif real in self._entered:
            self.passed[AGAIN] += 1
        else:
            self._descend(link, real)

    def _descend(self, folder: str, real: str) -> None:
        waiting = [(folder, real)]
        while waiting:
            folder, real = waiting.pop()
            if real in self._entered:
                continue
            if not is_hidden(folder):
                self._entered.add(real)
            try:
                where = f"{self._base}/{folder}" if folder else self._base
                found = _entries(self._filesystem, where)
            except OSError:
                if not folder:
                    raise
                self.passed[CLOSED] += 1
                continue
            for entry in found:
                path = f"{folder}/{entry.name}".lstrip("/")
                if not _leads_to_folder(entry):
                    self._add(path, entry)
                elif not entry.is_symlink():
                    waiting.append((path, f"{real}/{entry.name}"))
                elif not is_hidden(path):
                    self._links.append(path)

    def _add(self, path: str, entry: os.DirEntry[str]) -> None:
        if _is_special(entry):
            self.passed[SPECIAL] += 1
        elif (state := _state_of(entry)) is not None:
            self.files[path] = state


def _entries(filesystem: Any, path: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, asked again while the disk cannot be read."""

    def ask() -> list[os.DirEntry[str]]:
        with os.scandir(path) as entries:
            return list(entries)

    return list(with_retries(filesystem, path, ask))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link in a circle


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether opening it may wait for ever, as for the other end of a pipe."""
    try:
        return not (entry.is_file() or entry.is_dir() or _is_broken(entry))
    except OSError:
        return False


def _is_broken(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _state_of(entry: os.DirEntry[str]) -> Mapping[str, Any] | None:
    """Size and time of change, of a broken link its own; None if it is gone by now."""
    for follow in (True, False):
        try:
            found = entry.stat(follow_symlinks=follow)
        except OSError:
            continue
        return {"size": found.st_size, "mtime": found.st_mtime}
    return None
