"""Topcon .fda files; the layout of their chunks comes from oct-converter.

Its own reader class calls a function that NumPy 2.3 removed, prints, and takes local paths only, so
the chunks are walked here and its declarations of their contents are used.
"""

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError, refusing
from oct_io.readers.extras import needed
from oct_io.readers.plain import plain_header
from oct_io.readers.sidecar import Sidecar
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import FrameGeometry, place_frames
from oct_io.scan.header import ScanHeader, text
from oct_io.scan.outcome import check_bytes, complete
from oct_io.scan.protocols import device_name, find_protocol
from oct_io.volume import Laterality, OctVolume, Pattern

MARK = b"FOCT"
HEADER_BYTES = 15
MAX_CHUNKS = 10_000
MODES: dict[int, Pattern] = {0: "line", 2: "raster", 3: "radial"}
"""scan_mode of the image chunk, as the uocte project found it; 7 lines and crosses are others."""
LAYERS = {
    "MULTILAYERS_1": "ILM",
    "MULTILAYERS_2": "RNFL_GCL",
    "MULTILAYERS_3": "GCL_IPL",
    "MULTILAYERS_4": "IPL_INL",
    "MULTILAYERS_5": "MZ_EZ",
    "MULTILAYERS_6": "IZ_RPE",
    "MULTILAYERS_7": "BM",
    "MULTILAYERS_8": "INL_OPL",
    "MULTILAYERS_9": "ELM",
}
PILLOW_FORMATS = ("JPEG", "JPEG2000")
"""What oct-converter and the uocte project found in image chunks."""
Chunks = dict[str, list[bytes]]


def read_fda(file: ScanFile) -> OctVolume:
    """Read the volume of a .fda file with its layers and its infrared localizer.

    Raises:
        ScanError: with its stage.
    """
    where = file.where
    binary = needed("oct_converter.readers.binary_structs.fda_binary", "vendors", where)
    chunks = split_chunks(file.content(), where)
    with refusing(where, "decode", "a chunk of the .fda file is damaged"):
        mode, voxels = _bscans(chunks, binary, where)
        header = _describe(file, chunks, binary, voxels, mode)
        layers = _layers(chunks, binary, voxels.shape)
    localizer = _localizer(chunks, binary)
    return complete(
        voxels, header, where, patterns=file.patterns, layers=layers, localizer=localizer
    )


def split_chunks(content: bytes, where: str) -> Chunks:
    """Contents of the chunks by name, without the `@`; a name may come several times.

    Raises:
        ScanError: stage `parse`.
    """
    if content[:4] != MARK:
        raise ScanError(where, "parse", "not a Topcon .fda file: no FOCT mark at its start")
    chunks: Chunks = {}
    at = HEADER_BYTES
    for _ in range(MAX_CHUNKS):
        length = content[at] if at < len(content) else None
        if length is None:
            raise ScanError(where, "parse", "cut off: no chunk of length 0 ends the file")
        if length == 0:
            return chunks
        name = content[at + 1 : at + 1 + length].decode("ascii", "replace").lstrip("@")
        at += 1 + length
        size = int.from_bytes(content[at : at + 4], "little")
        at += 4
        if at + size > len(content):
            raise ScanError(where, "parse", "cut off: a chunk is longer than the file")
        chunks.setdefault(name, []).append(content[at : at + size])
        at += size
    raise ScanError(where, "parse", f"more than {MAX_CHUNKS:,} chunks")


def _bscans(chunks: Chunks, binary: Any, where: str) -> tuple[int, NDArray[Any]]:
    """(scan mode, voxels) of the first image chunk that is known."""
    if "IMG_JPEG" in chunks:
        data = BytesIO(chunks["IMG_JPEG"][0])
        head = binary.oct_header.parse_stream(data)
        shape = (head.number_slices, head.height, head.width)
        check_bytes(shape, 1, where)
        frames = []
        for _ in range(head.number_slices):
            size = int.from_bytes(data.read(4), "little")
            frames.append(_image(data.read(size), where, expected=shape[1:]))
        return int(head.scan_mode), np.stack(frames)
    if "IMG_MOT_COMP_03" in chunks:
        data = BytesIO(chunks["IMG_MOT_COMP_03"][0])
        head = binary.oct_header_2.parse_stream(data)
        shape = (head.number_slices, head.height, head.width)
        check_bytes(shape, 2, where)
        raw = np.frombuffer(data.read(), dtype="<u2")[: int(np.prod(shape))]
        return int(head.scan_mode), raw.reshape(shape).astype(np.uint16)
    reason = "it has neither an IMG_JPEG nor an IMG_MOT_COMP_03 chunk, so no B-scans"
    raise ScanError(where, "decode", reason)


def _image(
    content: bytes, where: str, expected: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """One JPEG or JPEG 2000 image; if it is not of the given (rows, columns), not decoded at all.

    Raises:
        ScanError: stage `decode`.
    """
    from PIL import Image

    with Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image:
        found = (image.height, image.width)
        if expected not in (None, found):
            reason = f"a B-scan of {found[0]} x {found[1]} where the file declares {expected}"
            raise ScanError(where, "decode", reason)
        check_bytes(found, 4, where)
        return np.asarray(image.convert("L"), dtype=np.uint8)


def _one(chunks: Chunks, structs: Any, *names: str) -> Any:
    """The first chunk that is there, parsed; None without any."""
    for name in names:
        if name in chunks:
            return getattr(structs, f"{name.lower()}_header").parse(chunks[name][0])
    return None


def _describe(
    file: ScanFile, chunks: Chunks, binary: Any, voxels: NDArray[Any], mode: int
) -> ScanHeader:
    where = file.where
    bscans, rows, columns = voxels.shape
    scan = _one(chunks, binary, "PARAM_SCAN_04", "PARAM_SCAN_02")
    if scan is None:
        file = replace(file, spacing=file.spacing or file.fallback)
    if file.spacing is not None:
        pitch, across = (file.spacing.row, file.spacing.column), file.spacing.bscan * bscans
    elif scan is not None:
        pitch = scan.z_resolution_um / 1000, scan.x_dimension_mm / columns
        across = scan.y_dimension_mm
    else:
        reason = "no PARAM_SCAN chunk says its size; spacing=Spacing(...) gives it"
        raise ScanError(where, "geometry", reason)
    protocol = find_protocol(file.name)
    pattern = MODES.get(mode, "unknown")
    placed = place_frames(
        FrameGeometry(
            frames=bscans,
            columns=columns,
            column_mm=pitch[1],
            field_of_view_mm=across or None,
            protocol=protocol,
        )
    )
    if pattern != "raster" and placed.pattern == "raster":
        note = f"scan mode {mode} of the file is no raster that is known"
        placed = placed._replace(
            pattern=pattern, bscan_mm=None, source=None, note=note, confidence="none"
        )
    elif file.spacing is not None and placed.pattern == "raster":
        placed = placed._replace(source="given", confidence="high")
    capture = _one(chunks, binary, "CAPTURE_INFO_02", "CAPTURE_INFO")
    sides: dict[int, Laterality] = {0: "R", 1: "L"}
    hardware = _one(chunks, binary, "HW_INFO_03", "HW_INFO_02", "HW_INFO_01")
    said = Sidecar(
        laterality="unknown" if capture is None else sides.get(int(capture.eye), "unknown"),
        device=device_name("topcon", text(getattr(hardware, "model_name", ""))),
        protocol=protocol.token if protocol else "unknown",
        region=protocol.region if protocol else "unknown",
    )
    return plain_header((bscans, rows, columns), voxels.dtype.itemsize, placed, pitch, said)


def _layers(chunks: Chunks, binary: Any, shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """Surfaces as rows from the top; the file counts them from the bottom, last B-scan first."""
    bscans, rows, columns = shape
    found = {}
    for chunk in chunks.get("CONTOUR_INFO", []):
        stream = BytesIO(chunk)
        head = binary.contour_info_header.parse_stream(stream)
        name = LAYERS.get(text(head.id))
        values = np.frombuffer(chunk[34:], dtype="<u2")
        if name is None or values.size < bscans * columns or head.width != columns:
            continue
        surface = values[: bscans * columns].reshape(bscans, columns)[::-1]
        found[name] = (rows - surface.astype(np.float32)).astype(np.float32)
    return found


def _localizer(chunks: Chunks, binary: Any) -> NDArray[np.uint8] | None:
    """The grey image of the fundus, if there is one that can be decoded."""
    if "IMG_TRC_02" not in chunks:
        return None
    data = chunks["IMG_TRC_02"][0]
    try:
        size = int(binary.img_trc_02_header.parse(data).size)
        return _image(data[21 : 21 + size], "")
    except (ScanError, OSError, ValueError):
        return None  # the volume is whole without it
