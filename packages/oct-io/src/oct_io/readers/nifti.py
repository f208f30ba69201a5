"""NIfTI volumes (.nii, .nii.gz), whose affine says which axis is which and how far apart."""

import math
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError, refusing
from oct_io.readers.extras import needed, quiet
from oct_io.readers.plain import (
    UNKNOWN,
    arranged,
    arranged_shape,
    placement,
    plain_header,
    plain_volume,
)
from oct_io.readers.sidecar import AXES, Sidecar, read_sidecar, sidecar_name
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader, cure_of
from oct_io.scan.outcome import check_bytes
from oct_io.volume import OctVolume, Spacing, SpacingSource

GZIP = b"\x1f\x8b"
HEAD_BYTES = 64 << 10
PIECE_BYTES = 16 << 10  # what is left of a piece is copied once for each member that ends in it
MAX_EXTRA_BYTES = 1 << 20
FORWARDS = {"S": "-bscan", "I": "bscan", "A": "-row", "P": "row", "R": "-column", "L": "column"}
"""Direction in which an array axis grows -> our axis: B-scans run to inferior, rows into the eye
(posterior), columns to the patient's left, as in an OPT file of the same scan."""
_NII2 = (540).to_bytes(4, "little")
UNITS_MM = {"mm": 1.0, "micron": 0.001, "meter": 1000.0, "unknown": 1.0}


def read_nifti(file: ScanFile) -> OctVolume:
    """Read a volume; its axes are put in order by its affine, or by the sidecar's `axes`.

    Raises:
        ScanError: with its stage; `geometry` also where the affine has rows run out of the eye,
            because depth is never flipped on a guess; what is no OCT has no depth, and is turned.
    """
    array, header, sidecar = _decode(file, read_sidecar(file, sidecar_name(file)))
    return plain_volume(file, array, sidecar, header)


def load_nifti(file: ScanFile, sidecar: Sidecar) -> NDArray[Any]:
    """Values of an image as (bscan, row, column), as they stand there.

    Raises:
        ScanError: as `read_nifti`.
    """
    array, _, sidecar = _decode(file, sidecar)
    return arranged(array, sidecar.axes)


def _decode(file: ScanFile, sidecar: Sidecar) -> tuple[NDArray[Any], ScanHeader, Sidecar]:
    """The array in its own axes, the header of the volume, and the sidecar with axes."""
    packed = file.content()
    image, _, _ = _describe(file, _unpacked(packed, file.where, HEAD_BYTES), sidecar)
    promised = math.prod(image.shape) * image.header.get_data_dtype().itemsize
    content = _unpacked(packed, file.where, promised + MAX_EXTRA_BYTES)
    image, header, sidecar = _describe(file, content, sidecar)
    start = int(image.header.get_data_offset())
    wanted = math.prod(image.shape) * image.header.get_data_dtype().itemsize
    if len(content) < start + wanted:
        reason = f"cut off: {len(content) - start:,} of {wanted:,} bytes of voxels are there"
        raise ScanError(file.where, "decode", reason)
    with refusing(file.where, "decode", "the voxels cannot be read"):
        array: NDArray[Any] = np.asarray(image.dataobj)  # with the header's slope and intercept
    return array.reshape(image.shape[:3]), header, sidecar


def peek_nifti(file: ScanFile) -> ScanHeader:
    """Shape and spacing from the first 64 kB and the sidecar.

    Raises:
        ScanError: stage `parse` or `geometry`.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    head = _unpacked(file.head(HEAD_BYTES), file.where, HEAD_BYTES)
    return _describe(file, head, sidecar)[1]


def _unpacked(content: bytes, where: str, limit: int) -> bytes:
    """Undo gzip, to at most `limit` bytes, member after member, as bgzip and pigz write them."""
    if content[:2] != GZIP:
        return content
    found: list[bytes] = []
    at = 0
    while content[at : at + 2] == GZIP and limit > 0:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        while not member.eof and at < len(content) and limit > 0:
            piece = content[at : at + PIECE_BYTES]
            try:
                found.append(member.decompress(piece, limit))
            except zlib.error:
                raise ScanError(where, "parse", "the gzip stream is damaged") from None
            at += len(piece) - len(member.unused_data) - len(member.unconsumed_tail)
            limit -= len(found[-1])
    return b"".join(found)


def _describe(file: ScanFile, content: bytes, sidecar: Sidecar) -> tuple[Any, ScanHeader, Sidecar]:
    """The image, its header, and the sidecar with axes, from the affine if it has none."""
    image, sized = _open(content, file.where)
    shape, itemsize = tuple(image.shape), max(image.header.get_data_dtype().itemsize, 1)
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        raise ScanError(file.where, "parse", f"an image of shape {shape}, not of three axes")
    check_bytes(shape, itemsize, file.where)
    affine = np.asarray(image.affine, dtype=np.float64)
    known, anything = file.spacing or sidecar.spacing, sidecar.kind == "volume"
    source: SpacingSource = "given" if known else "affine"
    if not sized and known is None and anything:
        known, source = UNKNOWN, "unknown"
    if not sized and known is None:
        raise ScanError(file.where, "geometry", "its pixdim has zeros, so nothing tells its size")
    axes = sidecar.axes or _axes(affine, file.where)
    if "-row" in axes and not (sidecar.axes or anything):
        reason = (
            "the affine has depth run out of the eye; if it is meaningless, say in "
            f'{sidecar_name(file)} what the axes are: {{"axes": ["column", "row", "bscan"]}}, '
            f'"-row" where depth is stored backwards{cure_of(sidecar.kind)}'
        )
        raise ScanError(file.where, "geometry", reason)
    names = [axis.removeprefix("-") for axis in axes]
    scale = UNITS_MM.get(image.header.get_xyzt_units()[0], 1.0)
    lengths = np.linalg.norm(affine[:3, :3], axis=0) * scale
    spacing = known or Spacing(*(float(lengths[names.index(axis)]) for axis in AXES))
    ordered = arranged_shape(shape, axes)
    placed = placement(spacing, source, sidecar.pattern, ordered[0])
    pitch = (spacing.row, spacing.column)
    header = plain_header(ordered, itemsize, placed, pitch, sidecar)
    return image, header, replace(sidecar, axes=axes)


def _open(content: bytes, where: str) -> tuple[Any, bool]:
    """The image, and whether its pixdim are sizes: nibabel takes 1 mm where they are 0."""
    nibabel = needed("nibabel", "formats", where)
    second = content[:4] in (_NII2, _NII2[::-1])
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    with (
        refusing(where, "parse", "the NIfTI header is damaged or cut off"),
        quiet("nibabel.global"),
    ):
        raw = kind.header_class(content[: 540 if second else 348], check=False)
        stream = nibabel.FileHolder(fileobj=BytesIO(content))
        image = kind.from_file_map({"image": stream, "header": stream})
        image.header.get_xyzt_units()
        sized = bool(np.all(raw["pixdim"][1:4] != 0)) or int(raw["sform_code"]) > 0
    return image, sized


def _axes(affine: NDArray[np.float64], where: str) -> tuple[str, ...]:
    """What the array's axes are, by the directions in which they grow."""
    nibabel = needed("nibabel", "formats", where)
    try:
        codes = nibabel.aff2axcodes(affine)
    except (ValueError, np.linalg.LinAlgError):
        raise ScanError(where, "geometry", "the affine is not finite") from None
    axes = tuple(FORWARDS.get(code or "", "") for code in codes)
    if sorted(axis.removeprefix("-") for axis in axes) != sorted(AXES):
        raise ScanError(where, "geometry", "the affine names no direction for each axis")
    return axes
