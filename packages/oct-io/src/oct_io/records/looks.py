"""Looks into files whose names do not say whether they are scans: each once, many at a time."""

from collections.abc import Callable, Iterable, Mapping

from oct_io.errors import ScanError
from oct_io.scan.file import ScanFile
from oct_io.storage.files import join
from oct_io.storage.together import ask_together


class Looks:
    """What is in files below a root, as far as it was looked at.

    Attributes:
        fresh: what was seen now, by relative path; a file that could not be read is not in it.
    """

    def __init__(
        self, base: str, recall: Callable[[], Mapping[str, bool]] = dict[str, bool]
    ) -> None:
        """Look below `base`.

        Args:
            base: local folder or fsspec URL.
            recall: gives what was seen earlier in files that have not changed, by relative path;
                called once something is asked.
        """
        self.fresh: dict[str, bool] = {}
        self._base, self._recall = base, recall
        self._known: Mapping[str, bool] | None = None

    def among(
        self, paths: Iterable[str], look: Callable[[ScanFile], bool], *, unread: bool
    ) -> set[str]:
        """Those of `paths` that are scans, by what `look` sees in them.

        Args:
            paths: relative ones.
            look: tells of one file; may raise `ScanError`.
            unread: what to take a file for that cannot be read.
        """
        asked = list(paths)
        if asked and self._known is None:
            self._known = self._recall()
        known = self._known or {}
        missing = [path for path in asked if path not in known]

        def see(path: str) -> bool | None:
            try:
                return look(ScanFile(url=join(self._base, path)))
            except ScanError:
                return None

        seen = dict(zip(missing, ask_together(self._base, see, missing), strict=True))
        self.fresh |= {path: found for path, found in seen.items() if found is not None}
        answers = {path: unread if found is None else found for path, found in seen.items()}
        return {path for path in asked if answers.get(path, known.get(path, False))}
