"""A HEYEX XML export: one .xml with the geometry, and one image file a B-scan beside it.

Parsed here and not by eyepy, which takes local paths only, follows image names out of the folder,
and needs elements that anonymised exports lack; the tests compare with eyepy where it can read.
"""

import math
from dataclasses import replace
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError, fromstring

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.readers.heidelberg import INVALID, lines_on, spectralis_header
from oct_io.readers.stacks import IMAGES, natural_order, read_image, read_images
from oct_io.scan.file import ScanFile
from oct_io.scan.outcome import check_bytes, complete
from oct_io.storage.files import safe_relative
from oct_io.volume import OctVolume, Pattern, Voxels

MAX_XML_BYTES = 64 << 20  # 19 layers of 500 B-scans take about 60 MB
PATTERN_WORDS: tuple[tuple[str, Pattern], ...] = (
    ("circle", "circle"),
    ("star", "radial"),
    ("radial", "radial"),
)


class BscanNote(NamedTuple):
    """What the XML says of one B-scan."""

    rows: int
    columns: int
    row_mm: float
    column_mm: float
    line_mm: tuple[float, float, float, float]  # x, y of start and of end, on the localizer
    image: str  # file name; "" where an anonymised export lacks it
    layers: dict[str, NDArray[np.float32]]


def read_heyex_xml(file: ScanFile, names: list[str] | None = None) -> OctVolume:
    """Read the volume that the .xml file at `file` describes; its images lie in its folder.

    Raises:
        ScanError: with its stage; `geometry` for circle and star scans.
    """
    where = file.where
    root = _parse(file)
    images = [one for one in root.iter("Image") if one.find(".//Start/Coord") is not None]
    if not images:
        raise ScanError(where, "parse", "the XML describes no B-scans; it is no HEYEX export")
    try:
        notes = [_note(image) for image in images]
    except (TypeError, ValueError, AttributeError) as error:
        reason = f"a B-scan lacks its size, scale or position ({type(error).__name__})"
        raise ScanError(where, "parse", reason) from None
    if len({note[:4] for note in notes}) > 1:
        raise ScanError(where, "parse", "its B-scans differ in size or scale")
    first, kind = notes[0], _text(root, ".//Series/Type").lower()
    sizes = (len(notes), first.rows, first.columns)
    check_bytes(sizes, 1, where)
    header = spectralis_header(
        file,
        sizes,
        pitch=(first.row_mm, first.column_mm),
        lines_mm=[note.line_mm for note in notes],
        pattern=next((pattern for word, pattern in PATTERN_WORDS if word in kind), None),
        distance_mm=None,
        side=_text(root, ".//Series/Laterality"),
        participant=_text(root, ".//Patient/PatientID"),
    )
    folder = replace(file, url=file.url.rpartition("/")[0] or ".")
    present = folder.names() if names is None else names
    voxels = _voxels(folder, notes, present, sizes)
    return complete(
        voxels,
        header,
        where,
        patterns=file.patterns,
        layers=_layers(notes),
        localizer=_localizer(folder, root, present),
        localizer_lines=_lines(root, notes),
    )


def _parse(file: ScanFile) -> Element:
    content = file.head(MAX_XML_BYTES + 1)
    if len(content) > MAX_XML_BYTES:
        raise ScanError(file.where, "parse", f"more than {MAX_XML_BYTES:,} bytes of XML")
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ScanError(file.where, "parse", "the XML declares entities, which HEYEX never does")
    try:
        return fromstring(content)
    except (ParseError, ValueError, LookupError):
        raise ScanError(file.where, "parse", "the XML is damaged or cut off") from None


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _note(image: Element) -> BscanNote:
    context = image.find("OphthalmicAcquisitionContext")
    assert context is not None  # `Start/Coord` lies in it

    def number(path: str) -> float:
        value = float(_text(context, path))
        if not math.isfinite(value):
            raise ValueError(path)
        return value

    start = number("Start/Coord/X"), number("Start/Coord/Y")
    end = number("End/Coord/X"), number("End/Coord/Y")
    layers = {}
    for line in image.iter("SegLine"):
        surface = np.array(_text(line, "Array").split(), dtype=np.float32)
        surface[~(np.abs(surface) < INVALID)] = np.nan
        layers[_text(line, "Name")] = surface
    return BscanNote(
        rows=int(number("Height")),
        columns=int(number("Width")),
        row_mm=number("ScaleY"),
        column_mm=number("ScaleX"),
        line_mm=(*start, *end),
        image=_text(image, "ImageData/ExamURL").replace("\\", "/").rpartition("/")[2],
        layers=layers,
    )


def _voxels(
    folder: ScanFile, notes: list[BscanNote], present: list[str], sizes: tuple[int, int, int]
) -> Voxels:
    """The images that the notes name; without names, those of the folder in natural order."""
    wanted = [note.image for note in notes]
    if not all(wanted):
        wanted = natural_order(name for name in present if name.lower().endswith(IMAGES))
        if len(wanted) != len(notes):
            reason = f"the XML describes {len(notes)} B-scans; {len(wanted)} images lie beside it"
            raise ScanError(folder.where, "parse", reason)
    missing = sum(name not in present or safe_relative(name) is None for name in wanted)
    if missing:
        reason = f"{missing} of {len(wanted)} B-scan images are not in its folder"
        raise ScanError(folder.where, "decode", reason)
    array = read_images(folder, wanted)
    if array.shape != sizes or array.dtype != np.uint8:
        reason = f"its images are {array.shape} {array.dtype}, the XML says {sizes} in 8 bits"
        raise ScanError(folder.where, "parse", reason)
    return array


def _layers(notes: list[BscanNote]) -> dict[str, NDArray[np.float32]]:
    names = sorted({name for note in notes for name in note.layers})
    absent = np.full(notes[0].columns, np.nan, dtype=np.float32)
    fitting = {
        name: [note.layers.get(name, absent) for note in notes]
        for name in names
        if all(note.layers.get(name, absent).shape == absent.shape for note in notes)
    }
    return {name: np.stack(rows) for name, rows in fitting.items()}


def _lines(root: Element, notes: list[BscanNote]) -> NDArray[np.float32] | None:
    """Where the B-scans lie on the en-face image, if the XML says how large its pixels are."""
    for image in root.iter("Image"):
        if image.find(".//Start/Coord") is None:
            try:
                scale = [float(_text(image, f".//Scale{axis}")) for axis in "YX"]
            except ValueError:
                return None
            if min(scale) > 0:
                return lines_on([note.line_mm for note in notes], (scale[0], scale[1]))
    return None


def _localizer(folder: ScanFile, root: Element, present: list[str]) -> NDArray[np.uint8] | None:
    """The grey en-face image, if the XML names one and it is there and can be read."""
    for image in root.iter("Image"):
        if image.find(".//Start/Coord") is None:
            name = _text(image, "ImageData/ExamURL").replace("\\", "/").rpartition("/")[2]
            if name in present:
                try:
                    array = read_image(folder.inside(name), "the localizer")
                except ScanError:
                    return None  # coloured, as MultiColor is, or damaged; the volume is whole
                return array if array.dtype == np.uint8 else None
    return None
