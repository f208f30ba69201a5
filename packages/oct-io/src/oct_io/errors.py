"""What can go wrong with one scan, and at which stage: `ScanError`; with a data set: `TreeError`.

Readers raise it for whoever reads one scan; a build of the cache makes it a line of the quarantine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

Stage = Literal["fetch", "parse", "geometry", "decode", "content"]
"""fetch: bytes did not arrive; parse: not a readable file of its format; geometry: no spacing, or
not a raster; decode: pixel data damaged or too large; content: decoded, but not an image of a
retina (all equal), or of someone else than the manifest says."""

STAGES: tuple[str, ...] = get_args(Stage)


class OctIoError(Exception):
    """Base of every error that oct_io raises on purpose; its text is one line for the user."""


class ScanError(OctIoError):
    """One scan that cannot be used: where it lies, at which stage it failed, and why.

    Attributes:
        path: path or URL as the caller gave it.
        stage: one of `STAGES`.
        reason: one line, without names, dates or identifiers of a patient.
    """

    def __init__(self, path: str, stage: Stage, reason: str) -> None:
        self.path, self.stage, self.reason = path, stage, reason
        super().__init__(f"{path}: {stage}: {reason}")

    def __reduce__(self) -> tuple[type["ScanError"], tuple[str, Stage, str]]:
        return type(self), (self.path, self.stage, self.reason)  # workers send it as an answer


class TreeError(OctIoError):
    """A folder, manifest or table that cannot be used as a whole; the text says what to do."""


class StoreError(TreeError):
    """A bucket, disk or network that cannot be used now: no fact about any scan.

    What is done is kept, and the same call goes on once the store answers again.
    """


@contextmanager
def refusing(where: str, stage: Stage, reason: str) -> Iterator[None]:
    """Refuse a scan for whatever a library raises in the block, but for the errors of oct_io.

    Parsers and decoders promise no set of errors for damaged bytes, and their texts may quote them:
    only the name of the error is passed on.

    Raises:
        ScanError: `reason`, at `stage`.
    """
    try:
        yield
    except OctIoError:
        raise
    except Exception as error:
        raise ScanError(where, stage, f"{reason} ({type(error).__name__})") from None
