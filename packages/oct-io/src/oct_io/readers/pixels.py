"""Pixel data of a multi-frame DICOM, checked for size and wholeness before it is decoded."""

import warnings
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels, pixel_array
from pydicom.uid import UID, RLELossless

from oct_io.errors import ScanError
from oct_io.readers.codestream import frame_size, is_whole
from oct_io.readers.header import NO_PIXELS, ScanHeader

MAX_VOXEL_BYTES = 1 << 30  # the largest known OCT volumes take 260 MB

HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
INSTALL = dict.fromkeys(HTJ2K, "; install pylibjpeg-openjpeg, which does")

Voxels = NDArray[np.uint8] | NDArray[np.uint16]


def check_size(header: ScanHeader, where: str) -> None:
    """Refuse a volume that claims more memory than any scan takes, or a voxel type that none has.

    Raises:
        ScanError: stage `decode` or `parse`.
    """
    if header.allocated not in (8, 16) or not 0 < header.bits <= header.allocated:
        reason = f"{header.bits} of {header.allocated} bits per voxel; 8 or 16 are read"
        raise ScanError(where, "parse", reason)
    frames, rows, columns = header.shape
    size = frames * rows * columns * header.allocated // 8
    if size > MAX_VOXEL_BYTES:
        reason = (
            f"header claims {frames} x {rows} x {columns} voxels, {size:,} bytes, "
            f"more than {MAX_VOXEL_BYTES:,}"
        )
        raise ScanError(where, "decode", reason)


def decode(
    content: bytes, header: ScanHeader, where: str, frames: Sequence[int] | None = None
) -> Voxels:
    """Decode all frames in file order, or those listed in their order; (bscans, rows, columns).

    Raises:
        ScanError: stage `decode`: pixel data missing, cut off, damaged, or not as many frames as
            the header says.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(BytesIO(content))
            _check_data(dataset, header, where)
            _check_kind(dataset, where)
            if frames is None:
                voxels = pixel_array(dataset, raw=True)
            else:
                voxels = np.stack(list(iter_pixels(dataset, indices=frames, raw=True)))
    except ScanError:
        raise
    except Exception as error:  # decoders promise no set of errors; their texts may quote bytes
        reason = f"the pixel data cannot be decoded ({type(error).__name__})"
        raise ScanError(where, "decode", reason) from None
    shape = header.shape if frames is None else (len(frames), *header.shape[1:])
    if voxels.size != np.prod(shape):
        reason = f"decoded to {voxels.shape} instead of {shape}"
        raise ScanError(where, "decode", reason)
    kind = np.uint8 if header.allocated == 8 else np.uint16
    voxels = voxels.astype(kind, copy=False)  # big-endian files keep their byte order in pydicom
    return voxels.reshape(shape)  # one frame arrives without its axis


def _check_kind(dataset: Dataset, where: str) -> None:
    kind = str(dataset.get("PhotometricInterpretation"))
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or kind not in ("MONOCHROME2", "MONOCHROME1"):
        raise ScanError(where, "parse", "voxels are coloured; OCT volumes have one grey channel")
    if kind == "MONOCHROME1":
        raise ScanError(where, "parse", "grey levels are inverted (MONOCHROME1)")
    if int(dataset.get("PixelRepresentation", 0)) != 0:
        raise ScanError(where, "parse", "voxels are signed; OCT volumes are unsigned")


def _check_data(dataset: Dataset, header: ScanHeader, where: str) -> None:
    data = dataset.get("PixelData")
    if not data:
        raise ScanError(where, "decode", NO_PIXELS)
    frames, rows, columns = header.shape
    syntax = UID(header.transfer_syntax)
    if not syntax.is_encapsulated:
        wanted = frames * rows * columns * header.allocated // 8
        if len(data) not in (wanted, wanted + wanted % 2):
            per_frame = wanted // frames
            reason = (
                f"header says {frames} frames, {wanted:,} bytes; the pixel data has {len(data):,}, "
                f"{len(data) / per_frame:.1f} frames"
            )
            raise ScanError(where, "decode", reason)
        return
    if not _has_decoder(syntax):
        reason = f"nothing installed decodes {syntax.name}{INSTALL.get(str(syntax), '')}"
        raise ScanError(where, "decode", reason)
    _check_fragments(dataset, bytes(data), header, where)


def _has_decoder(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # pydicom knows no decoder for it at all
        return False


def _check_fragments(dataset: Dataset, data: bytes, header: ScanHeader, where: str) -> None:
    frames, rows, columns = header.shape
    fragments = sum(1 for _ in generate_fragments(data)) - 1  # the first is the offset table
    if fragments < frames:
        reason = f"header says {frames} frames; the pixel data has {max(fragments, 0)}"
        raise ScanError(where, "decode", reason)
    offsets = dataset.get("ExtendedOffsetTable")
    lengths = dataset.get("ExtendedOffsetTableLengths")
    table = (bytes(offsets), bytes(lengths)) if offsets and lengths else None
    found = 0
    for frame in generate_frames(data, number_of_frames=frames, extended_offsets=table):
        found += 1
        if found > frames:
            break
        if header.transfer_syntax == RLELossless:
            continue
        size = frame_size(frame)
        if size != (rows, columns):
            seen = "no image" if size is None else f"{size[0]} x {size[1]}"
            reason = f"frame {found} holds {seen} instead of {rows} x {columns}"
            raise ScanError(where, "decode", reason)
        if not is_whole(frame):
            raise ScanError(where, "decode", f"frame {found} of {frames} is cut off")
    if found != frames:
        more = "more" if found > frames else str(found)
        reason = f"header says {frames} frames; the pixel data has {more}"
        raise ScanError(where, "decode", reason)
