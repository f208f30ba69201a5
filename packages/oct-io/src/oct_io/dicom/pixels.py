"""Pixel data of a multi-frame DICOM, checked for size and wholeness before it is decoded."""

import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, generate_frames
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID, RLELossless

from oct_io.dicom.codestream import RLE_HEADER, frame_size, is_whole, zero_run
from oct_io.dicom.decoders import HTJ2K, HUFFMAN, Decode, find_decoder, uses_all_bytes
from oct_io.dicom.header import NO_PIXELS
from oct_io.errors import ScanError
from oct_io.scan.header import ScanHeader
from oct_io.volume import Voxels

PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
LEAST_FRAME_BYTES = 20  # of a codestream that holds an image; a blank one takes more
INSTALL = dict.fromkeys(HTJ2K, "; install pylibjpeg-openjpeg or imagecodecs, which do")


class Pixels(NamedTuple):
    """What pixel data decode to."""

    voxels: Voxels  # (bscans, rows, columns)
    lost_bytes: str  # what suggests that some are missing; "" if nothing does


def decode(
    content: bytes, header: ScanHeader, where: str, frames: Sequence[int] | None = None
) -> Pixels:
    """Decode all frames in file order, or those listed in their order.

    Raises:
        ScanError: stage `decode`: pixel data missing, cut off, damaged, or not as many frames as
            the header says.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _find_pixels(content, where)
            _check_kind(found.dataset, where)
            if UID(header.transfer_syntax).is_encapsulated:
                return _decode_frames(content, found, header, where, frames)
            return Pixels(_copy_native(content, found, header, where, frames), "")
    except (ScanError, MemoryError):
        raise
    except Exception as error:  # decoders promise no set of errors; their texts may quote bytes
        reason = f"the pixel data cannot be decoded ({type(error).__name__})"
        raise ScanError(where, "decode", reason) from None


class _Found(NamedTuple):
    dataset: Dataset  # all elements before the pixel data
    start: int  # of the value
    length: int  # UNDEFINED where fragments follow


def _find_pixels(content: bytes, where: str) -> _Found:
    """Where the pixel data lies; it is not copied, because it may be all of the memory there is."""
    lengths: list[int] = []

    def at_pixels(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if tag == PIXEL_DATA:
            lengths.append(length)
        return tag >= PIXEL_DATA

    file = BytesIO(content)  # shares the bytes
    dataset = read_partial(file, stop_when=at_pixels)
    if not lengths or not lengths[0]:
        raise ScanError(where, "decode", NO_PIXELS)
    implicit, _ = dataset.original_encoding
    return _Found(dataset, file.tell() + (8 if implicit else 12), lengths[0])


def _check_kind(dataset: Dataset, where: str) -> None:
    kind = str(dataset.get("PhotometricInterpretation"))
    if int(dataset.get("SamplesPerPixel", 1)) != 1 or kind not in ("MONOCHROME2", "MONOCHROME1"):
        raise ScanError(where, "parse", "voxels are coloured; OCT volumes have one grey channel")
    if kind == "MONOCHROME1":
        raise ScanError(where, "parse", "grey levels are inverted (MONOCHROME1)")
    if int(dataset.get("PixelRepresentation", 0)) != 0:
        raise ScanError(where, "parse", "voxels are signed; OCT volumes are unsigned")


def _copy_native(
    content: bytes, found: _Found, header: ScanHeader, where: str, frames: Sequence[int] | None
) -> Voxels:
    count, rows, columns = header.shape
    wanted = count * rows * columns * header.allocated // 8
    there = min(found.length, len(content) - found.start)
    if there not in (wanted, wanted + wanted % 2) or found.length == UNDEFINED:
        reason = (
            f"header says {count} frames, {wanted:,} bytes; the pixel data has {there:,}, "
            f"{there / (wanted // count):.1f} frames"
        )
        raise ScanError(where, "decode", reason)
    _, little = found.dataset.original_encoding
    kind = np.dtype(np.uint8 if header.allocated == 8 else "<u2" if little else ">u2")
    flat = np.frombuffer(content, kind, wanted // kind.itemsize, found.start)
    view = flat.reshape(header.shape)
    chosen = view if frames is None else view[list(frames)]
    return chosen.astype(np.uint8) if header.allocated == 8 else chosen.astype(np.uint16)


def _decode_frames(
    content: bytes, found: _Found, header: ScanHeader, where: str, frames: Sequence[int] | None
) -> Pixels:
    count, rows, columns = header.shape
    decoder = find_decoder(header)
    if decoder is None:
        syntax = UID(header.transfer_syntax)
        reason = f"nothing installed decodes {syntax.name}{INSTALL.get(str(syntax), '')}"
        raise ScanError(where, "decode", reason)
    gaps = _check_frames(content, found, header, where)
    wanted = {frame: i for i, frame in enumerate(range(count) if frames is None else frames)}
    out = np.empty((len(wanted), rows, columns), np.uint8 if header.allocated == 8 else np.uint16)
    lost = ""
    for number, frame in enumerate(_frames(content, found, header)):
        if number not in wanted:
            continue
        if number in gaps and not lost and _is_lost(frame, decoder, header):
            lost = f"frame {number + 1} has {gaps[number]:,} zero bytes within its codestream"
        image = decoder(frame)
        if image.shape != (rows, columns) or image.dtype.itemsize > out.dtype.itemsize:
            reason = f"frame {number + 1} decoded to {image.dtype} {image.shape}"
            raise ScanError(where, "decode", reason)
        out[wanted[number]] = image
    return Pixels(out, lost)


def _frames(content: bytes, found: _Found, header: ScanHeader) -> Iterator[bytes]:
    offsets = found.dataset.get("ExtendedOffsetTable")
    lengths = found.dataset.get("ExtendedOffsetTableLengths")
    table = (bytes(offsets), bytes(lengths)) if offsets and lengths else None
    file = BytesIO(content)
    file.seek(found.start)
    return generate_frames(file, number_of_frames=header.shape[0], extended_offsets=table)


def _check_frames(content: bytes, found: _Found, header: ScanHeader, where: str) -> dict[int, int]:
    """Check number, size and end of all frames; those with a long row of zeros, and how long.

    All this before memory for the voxels is asked for.
    """
    count = header.shape[0]
    file = BytesIO(content)
    file.seek(found.start)
    fragments = sum(1 for _ in generate_fragments(file)) - 1  # the first is the offset table
    if fragments < count or len(content) - found.start < count * LEAST_FRAME_BYTES:
        reason = f"header says {count} frames; the pixel data has {max(fragments, 0)}"
        raise ScanError(where, "decode", reason)
    gaps: dict[int, int] = {}
    number = 0
    for number, frame in enumerate(_frames(content, found, header), start=1):
        if number > count:
            break
        _check_frame(frame, header, number, where)
        zeros = zero_run(frame[RLE_HEADER:] if header.transfer_syntax == RLELossless else frame)
        if zeros:
            gaps[number - 1] = zeros
    if number != count:
        more = "more" if number > count else str(number)
        reason = f"header says {count} frames; the pixel data has {more}"
        raise ScanError(where, "decode", reason)
    return gaps if len(gaps) <= count / 2 or count < 3 else {}  # else it is how this writer writes


def _check_frame(frame: bytes, header: ScanHeader, number: int, where: str) -> None:
    count, rows, columns = header.shape
    if header.transfer_syntax == RLELossless:
        return
    size = frame_size(frame)
    if size is None or size[:2] != (rows, columns):
        seen = "no image" if size is None else f"{size.rows} x {size.columns}"
        reason = f"frame {number} holds {seen} instead of {rows} x {columns}"
        raise ScanError(where, "decode", reason)
    if size.components != 1 or size.bits > header.allocated:
        reason = f"frame {number} holds {size.components} channels of {size.bits} bits"
        raise ScanError(where, "decode", reason)
    if not is_whole(frame):
        raise ScanError(where, "decode", f"frame {number} of {count} is cut off")


def _is_lost(frame: bytes, decoder: Decode, header: ScanHeader) -> bool:
    """Tell lost bytes from a black area, which Huffman codes may well write as zeros."""
    return header.transfer_syntax not in HUFFMAN or not uses_all_bytes(frame, decoder)
