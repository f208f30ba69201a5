"""The files of a data set, whatever folder of it is called the root, and which are known."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from oct_io.catalog.tables import Row, read_table
from oct_io.containers.spreadsheets import read_sheet
from oct_io.errors import TreeError
from oct_io.storage.disk import is_hidden
from oct_io.storage.files import exists, join, list_tokens, read_bytes, redact

Match = tuple[str, re.Match[str]]


class Tree:
    """What lies below a root; patterns are for the last parts of paths, the root's name included.

    So `Glaucoma/Test/data_1.npz` is found below the folder that holds Glaucoma, below a folder that
    holds that, and below Glaucoma itself.
    """

    def __init__(self, root: str | Path) -> None:
        """List the files below `root`, a local folder or an fsspec URL.

        Raises:
            TreeError: no such folder.
        """
        self.base = str(root).rstrip("/")
        self.where = redact(self.base)
        if not exists(self.base):
            raise TreeError(f"{self.where}: no such folder")
        self.tokens = list_tokens(self.base)
        self.paths = sorted(path for path in self.tokens if not is_hidden(path))
        self._name = self.base.rsplit("/", 1)[-1]
        self._known: set[str] = set()

    def match(self, pattern: str) -> Iterator[Match]:
        """Paths whose last parts match, sorted, with the match; they are known from now on."""
        wanted = re.compile(f"(?:.*/)?{pattern}")
        for path in self.paths:
            if found := wanted.fullmatch(f"{self._name}/{path}"):
                self._known.add(path)
                yield path, found

    def find(self, name: str) -> str | None:
        """Path of the file whose last part is `name`, in any case; the least deep of several."""
        alike = [path for path in self.paths if path.rpartition("/")[2].lower() == name.lower()]
        self._known.update(alike)
        return min(alike, key=lambda path: (path.count("/"), path), default=None)

    def rows(self, path: str) -> list[Row]:
        """Rows of a CSV, TSV or XLSX file.

        Raises:
            TreeError: not a table.
        """
        self._known.add(path)
        url = join(self.base, path)
        if path.lower().endswith(".xlsx"):
            return read_sheet(read_bytes(url), redact(url))
        return read_table(url)

    @property
    def known(self) -> list[str]:
        """The files that were asked for so far, sorted."""
        return sorted(self._known)

    def unknown(self) -> Counter[str]:
        """How many files nobody asked for, by their ending, the most frequent first."""
        rest = (path for path in self.paths if path not in self._known)
        counts = Counter(PurePosixPath(path).suffix.lower() or "no ending" for path in rest)
        return Counter(dict(counts.most_common()))
