"""The photograph that a tomography DICOM lies on: which it names, where, and the image itself.

Scanners keep the en-face image that they take along in a file of its own, Ophthalmic Photography
(PS3.3 A.41), and each frame of the tomography says where it lies on it (Ophthalmic Frame Location,
PS3.3 C.8.17.10).
"""

import warnings
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from oct_io.dicom.groups import Groups
from oct_io.errors import ScanError, refusing
from oct_io.scan.header import text
from oct_io.scan.outcome import check_bytes

PHOTOGRAPHY = tuple(f"1.2.840.10008.5.1.4.1.1.77.1.5.{number}" for number in (1, 2, 5, 6))
"""Ophthalmic Photography of 8 and of 16 bits, and of wide fields, in both forms (PS3.4 B.5)."""
LOCATION = "OphthalmicFrameLocationSequence"
FIRST = 1  # the outer pixel of a photograph is 1 \ 1, so that its corner lies half a pixel before
LIGHT = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


class OnPhotograph(NamedTuple):
    """Where frames lie on a photograph: its SOP Instance UID, and (frames, 4) in its pixels."""

    uid: str
    lines: NDArray[np.float32]


def place_on_photograph(dataset: Dataset) -> OnPhotograph | None:
    """What a tomography says; None where it names none, several, or not the place of each frame.

    Rows and columns count from the image's outer corner.
    """
    groups, frames = Groups(dataset), int(dataset.get("NumberOfFrames") or 1)
    lines = groups.rows(LOCATION, "ReferenceCoordinates", 4, frames)
    names = {
        text(groups.find(LOCATION, "ReferencedSOPInstanceUID", frame)) for frame in range(frames)
    }
    shared = groups.find("ReferencedImageSequence", "ReferencedSOPInstanceUID")
    named = names - {""} or {text(shared)} - {""}
    if lines is None or not np.isfinite(lines).all() or len(named) != 1:
        return None
    return OnPhotograph(named.pop(), (lines - FIRST + 0.5).astype(np.float32))


def photograph_uid(dataset: Dataset) -> str:
    """Its SOP Instance UID; "" if it is no photograph."""
    known = str(dataset.get("SOPClassUID")) in PHOTOGRAPHY
    return text(dataset.get("SOPInstanceUID")) if known else ""


def read_photograph(content: bytes, where: str) -> NDArray[np.uint8]:
    """The image as grey levels, (height, width).

    Raises:
        ScanError: stage `parse`: no DICOM, or no photograph; stage `decode`: too large, of several
            frames, or damaged.
    """
    with refusing(where, "parse", "the photograph's header cannot be read"):
        dataset = dcmread(BytesIO(content))
        if not photograph_uid(dataset):
            raise ScanError(where, "parse", "holds no Ophthalmic Photography")
        frames = int(dataset.get("NumberOfFrames") or 1)
        samples = int(dataset.get("SamplesPerPixel") or 1)
        size = frames, int(dataset.Rows), int(dataset.Columns) * samples
        bits = int(dataset.get("BitsStored") or 8)
    check_bytes(size, int(dataset.get("BitsAllocated") or 8) // 8, where)
    if frames > 1:
        raise ScanError(where, "decode", f"the photograph has {frames} frames; one is read")
    with (
        refusing(where, "decode", "the photograph's pixels cannot be read"),
        warnings.catch_warnings(action="ignore"),  # of paddings and odd values
    ):
        pixels: NDArray[Any] = pixel_array(dataset)
        grey = pixels @ LIGHT if pixels.ndim == 3 else pixels.astype(np.float64)
        if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
            grey = (1 << bits) - 1 - grey
        levels = np.clip(np.round(grey * (255 / ((1 << bits) - 1))), 0, 255)
        return levels.astype(np.uint8)
