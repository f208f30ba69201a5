"""Decoders of one compressed frame: those of pydicom, or faster ones where they are installed.

imagecodecs is taken for what it decodes faster than the decoder that we require, and for high
throughput JPEG 2000, which that one does not read. Voxels are the same with and without it.
"""

import contextlib
import importlib.util
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, RLELossless

from oct_io.dicom.codestream import RLE_HEADER
from oct_io.scan.header import ScanHeader

Frame = NDArray[Any]
Decode = Callable[[bytes], Frame]

_one_at_a_time = threading.Lock()  # while hooks of the whole process are ours

HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
BASELINE = "1.2.840.10008.1.2.4.50"
HUFFMAN = (BASELINE, "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
FASTER = {
    **dict.fromkeys(HUFFMAN, "jpeg8_decode"),
    "1.2.840.10008.1.2.4.80": "jpegls_decode",
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
    "1.2.840.10008.1.2.4.90": "jpeg2k_decode",
    "1.2.840.10008.1.2.4.91": "jpeg2k_decode",
}
"""Transfer syntax -> function of imagecodecs."""


def find_decoder(header: ScanHeader) -> Decode | None:
    """Function from the bytes of a frame to (rows, columns); None if nothing installed has one."""
    syntax = header.transfer_syntax
    if importlib.util.find_spec("imagecodecs") is not None:
        if syntax in FASTER:
            return partial(_decode_faster, FASTER[syntax])
        if syntax == RLELossless:
            return partial(_decode_rle, header)
        if syntax in HTJ2K:
            return partial(_decode_htj2k, header)
    return partial(_decode_with_pydicom, header) if _is_known(UID(syntax)) else None


def _is_known(syntax: UID) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # pydicom knows no decoder for it at all
        return False


def _decode_faster(name: str, frame: bytes) -> Frame:
    import imagecodecs

    return np.asarray(getattr(imagecodecs, name)(frame))


def _decode_rle(header: ScanHeader, frame: bytes) -> Frame:
    """Decode a segment for each byte of a voxel, the highest first, within the frame.

    imagecodecs's `dicomrle_decode` reads wherever the frame's own header points to.

    Raises:
        ValueError: its segments do not lie in it one after another, or hold too few voxels.
    """
    import imagecodecs

    each, voxels = header.allocated // 8, header.shape[1] * header.shape[2]
    count, *starts = struct.unpack("<16I", frame[:RLE_HEADER])
    bounds = [*starts[:each], len(frame)]
    if count != each or starts[0] < RLE_HEADER or bounds != sorted(set(bounds)):
        raise ValueError("segments outside of the frame")
    out = np.empty((voxels, each), np.uint8)
    for number, (start, end) in enumerate(pairwise(bounds)):
        room = bytearray(voxels + 1)  # segments are padded to an even length
        found = imagecodecs.packbits_decode(frame[start:end], out=room)
        out[:, each - 1 - number] = np.frombuffer(found, np.uint8, voxels)
    return out.view("<u2" if each == 2 else np.uint8).reshape(header.shape[1:])


def _decode_htj2k(header: ScanHeader, frame: bytes) -> Frame:
    """Decode with a check of our own: imagecodecs leaves rows out after an error, and goes on.

    Raises:
        ValueError: the decoder did not come to the last row.
    """
    import imagecodecs

    kind = np.uint16 if header.allocated == 16 else np.uint8
    out = np.empty(header.shape[1:], kind)
    unlikely = np.random.default_rng(0).integers(0, np.iinfo(kind).max, out.shape[1], kind)
    out[-1] = unlikely
    with _complaints() as complaints:
        found = np.asarray(imagecodecs.htj2k_decode(frame, out=out))
    if complaints or np.array_equal(found[-1], unlikely):
        raise ValueError("the decoder stopped early")
    return found


@contextlib.contextmanager
def _complaints() -> Iterator[list[bool]]:
    """Count what a decoder in Cython cannot raise, and would print as an exception ignored."""
    heard: list[bool] = []
    with _one_at_a_time:
        before = sys.unraisablehook, sys.excepthook
        sys.unraisablehook = lambda _: heard.append(True)
        sys.excepthook = lambda *_: None  # Cython prints it before it hands it over
        try:
            yield heard
        finally:
            sys.unraisablehook, sys.excepthook = before


def _decode_with_pydicom(header: ScanHeader, frame: bytes) -> Frame:
    options: dict[str, Any] = {
        "rows": header.shape[1],
        "columns": header.shape[2],
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "bits_allocated": header.allocated,
        "bits_stored": header.bits,
        "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2",
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(UID(header.transfer_syntax))
    array, _ = decoder.as_array(encapsulate([frame], has_bot=False), raw=True, **options)
    return array


def uses_all_bytes(frame: bytes, decode: Decode) -> bool:
    """Whether a Huffman-coded frame ends where its image does.

    Where bytes were zeroed, other pixels than before take up other numbers of bits, and the image
    is full too early, or not yet at the end. Found by cutting eight bytes off the end, which must
    change the image, and by adding some, which must not.
    """
    body = frame.rstrip(b"\0").removesuffix(b"\xff\xd9")
    whole = decode(frame)
    longer = _try(decode, body + b"\x5a\x27\x33\x1c" * 8 + b"\xff\xd9")
    if longer is None or not np.array_equal(longer, whole):
        return False
    if body[-8:].count(0) > 4:  # the end of a black image: its lack would not be seen
        return True
    shorter = _try(decode, body[:-8] + b"\xff\xd9")
    return shorter is None or not np.array_equal(shorter, whole)


def _try(decode: Decode, frame: bytes) -> Frame | None:
    try:
        return decode(frame)
    except Exception:  # decoders promise no set of errors
        return None
