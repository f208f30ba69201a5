"""What `volume.json` files say of all scans below their folder, each file read once."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from oct_io.errors import ScanError, TreeError
from oct_io.readers.registry import DICOM, suffix_of
from oct_io.readers.sidecar import FOLDER_SIDECAR, merge_fields, parse_fields
from oct_io.scan.file import ScanFile
from oct_io.storage.files import join
from oct_io.storage.together import ask_together


class FolderSidecars:
    """Sidecars of the folders from a root down; the nearest to a scan wins, field by field."""

    def __init__(
        self,
        root: str,
        present: Collection[str] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        """Look below `root`.

        Args:
            root: local folder or fsspec URL.
            present: relative paths of all files there, where a listing is at hand; None asks in
                each folder on the way to a scan.
            said: of all scans, where no sidecar says otherwise.
        """
        self._root, self._present = root, present
        self._above = dict(said or {})
        self._own: dict[str, dict[str, Any]] = {}
        self._fields: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, str] = {}

    def fetch(self, folders: Iterable[str]) -> None:
        """Read the sidecars in the relative `folders` and above them, many at a time in a bucket.

        Raises:
            TreeError: a sidecar that cannot be used.
        """
        wanted: set[str] = set()
        for folder in folders:
            while folder not in wanted:
                wanted.add(folder)
                folder = _parent(folder)
        unread = sorted(wanted - self._own.keys())
        found = ask_together(self._root, self._read, unread)
        self._own |= dict(zip(unread, found, strict=True))

    def said(self, path: str) -> str:
        """JSON of what is said of the scan at the relative `path`; "" if nothing, and of DICOM.

        Raises:
            TreeError: a sidecar that cannot be used.
        """
        return "" if suffix_of(path) in DICOM else self.of_folder(_parent(path))

    def of_folder(self, folder: str) -> str:
        """JSON of what is said of all scans in the relative `folder`, and below it; "" if nothing.

        Raises:
            TreeError: a sidecar that cannot be used.
        """
        if folder not in self._texts:
            fields = self._merged(folder)
            self._texts[folder] = json.dumps(fields, sort_keys=True) if fields else ""
        return self._texts[folder]

    def _merged(self, folder: str) -> dict[str, Any]:
        if folder not in self._fields:
            above = self._merged(_parent(folder)) if folder else self._above
            self.fetch([folder])
            self._fields[folder] = merge_fields(above, self._own[folder])
        return self._fields[folder]

    def _read(self, folder: str) -> dict[str, Any]:
        path = f"{folder}/{FOLDER_SIDECAR}".lstrip("/")
        if self._present is not None and path not in self._present:
            return {}
        file = ScanFile(url=join(self._root, path))
        try:
            content = file.text()
            return {} if content is None else parse_fields(content, file.where)
        except ScanError as error:
            raise TreeError(f"{file.where}: {error.reason}") from error


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
