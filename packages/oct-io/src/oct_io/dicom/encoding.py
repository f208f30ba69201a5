"""Encoders of DICOM's transfer syntaxes, for files that tests and phantoms write."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.dicom.items import Item, Pixels
from oct_io.errors import OctIoError

Frame = NDArray[np.uint8] | NDArray[np.uint16]
OFFSET_TABLES = ("basic", "empty", "extended")
BASELINE_QUALITY = 95


class Codec(NamedTuple):
    """One way to store frames.

    Attributes:
        uid: transfer syntax (PS3.6 A).
        function: encoder in imagecodecs; "" where none is needed.
        options: what it is called with beside the frame.
        bits: what a voxel may take.
        lossy: value of LossyImageCompressionMethod; "" if every bit comes back.
    """

    uid: str
    function: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    bits: tuple[int, ...] = (8, 16)
    lossy: str = ""


_TS = "1.2.840.10008.1.2"
_REVERSIBLE_J2K = (("reversible", True), ("codecformat", "j2k"))
CODECS: dict[str, Codec] = {
    "native": Codec(f"{_TS}.1"),
    "rle": Codec(f"{_TS}.5"),
    "jpeg2000": Codec(f"{_TS}.4.90", "jpeg2k_encode", _REVERSIBLE_J2K),
    "jpegls": Codec(f"{_TS}.4.80", "jpegls_encode"),
    "ljpeg": Codec(f"{_TS}.4.70", "ljpeg_encode"),
    "htj2k": Codec(f"{_TS}.4.201", "htj2k_encode", (("reversible", True),)),
    "jpeg": Codec(
        f"{_TS}.4.50", "jpeg8_encode", (("level", BASELINE_QUALITY),), (8,), "ISO_10918_1"
    ),
}
"""By name. `ljpeg` is lossless JPEG with first-order prediction, `jpeg` the lossy baseline."""


def check_codec(name: str, bits: int = 8) -> Codec:
    """The codec called `name`.

    Raises:
        ValueError: none of that name, or it does not store so many bits.
    """
    if name not in CODECS:
        raise ValueError(f"codec ({name!r}) must be one of {', '.join(CODECS)}")
    codec = CODECS[name]
    if bits not in codec.bits:
        raise ValueError(f"codec ({name!r}) stores {codec.bits[0]} bits a voxel, not {bits}")
    return codec


def encode_frames(frames: Sequence[Frame] | Frame, codec: str) -> list[bytes]:
    """Each of `frames`, (rows, columns), as one codestream.

    Raises:
        OctIoError: the encoder is not installed.
        ValueError: no such codec.
    """
    found = check_codec(codec, frames[0].dtype.itemsize * 8)
    if codec == "native":
        return [np.ascontiguousarray(frame).tobytes() for frame in frames]
    if codec == "rle":
        return [_encode_rle(frame) for frame in frames]
    encode = _encoder(codec, found)
    return [_even(bytes(encode(np.ascontiguousarray(frame)))) for frame in frames]


def _even(stream: bytes) -> bytes:
    """Padded as PS3.5 A.4 wants it; the end mark stays the last that is not zero."""
    return stream + b"\0" * (len(stream) % 2)


def _encoder(name: str, codec: Codec) -> Callable[[Frame], bytes]:
    try:
        import imagecodecs  # 80 MB of codecs that only writing needs
    except ImportError as error:
        raise OctIoError(
            f"codec '{name}' is written by imagecodecs, which is not installed: "
            "uv pip install imagecodecs"
        ) from error
    function, options = getattr(imagecodecs, codec.function), dict(codec.options)
    return lambda frame: function(frame, **options)


def _encode_rle(frame: Frame) -> bytes:
    from pydicom.pixels.encoders.base import get_encoder
    from pydicom.uid import RLELossless

    bits = frame.dtype.itemsize * 8
    stream = get_encoder(RLELossless).encode(
        np.ascontiguousarray(frame),
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=bits,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        encoding_plugin="pydicom",  # GDCM's aborts the process where a row is of odd length
    )
    return _even(bytes(stream))


def set_pixels(dataset: Item, frames: Frame, codec: str, table: str) -> None:
    """Store `frames`, (frames, rows, columns), as codestreams in `dataset`.

    Args:
        dataset: what the pixel data and what describes them are added to.
        frames: uint8 or uint16.
        codec: one of `CODECS`.
        table: where frames begin stands in the basic offset table, nowhere, or in the extended
            one; one of `OFFSET_TABLES`.

    Raises:
        OctIoError: the encoder is not installed.
        ValueError: no such codec or table.
    """
    from pydicom.encaps import encapsulate, encapsulate_extended

    if table not in OFFSET_TABLES:
        raise ValueError(f"table ({table!r}) must be one of {', '.join(OFFSET_TABLES)}")
    found = check_codec(codec, frames.dtype.itemsize * 8)
    streams = encode_frames(frames, codec)
    if table == "extended":
        data, offsets, lengths = encapsulate_extended(streams)
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    else:
        data = encapsulate(streams, has_bot=table == "basic")
    dataset.PixelData = Pixels(data, "OB", encapsulated=True)
    if found.lossy:
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = f"{frames.nbytes / sum(map(len, streams)):.3f}"
        dataset.LossyImageCompressionMethod = found.lossy
