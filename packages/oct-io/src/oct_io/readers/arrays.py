"""Files of arrays, .npy, .npz, .mat and .mhd, with a JSON sidecar for what they do not say."""

import zipfile
from collections.abc import Collection
from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from oct_io.containers.matlab import read_mat as read_arrays
from oct_io.containers.metaimage import MetaImage, read_metaimage
from oct_io.errors import ScanError, refusing
from oct_io.readers.plain import placement, plain_header, plain_volume, sidecar_header
from oct_io.readers.sidecar import Sidecar, read_sidecar, sidecar_name
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import check_bytes
from oct_io.volume import OctVolume, Spacing

HEAD_BYTES = 16 << 10  # numpy's own limit of a header is 10 kB
MAX_MEMBERS = 1000
MOST_PACKED = 500  # times; one value all over reaches 1,029, the real Spectralis volume 1.5
SMALL_BYTES = 64 << 20  # unpacked in a moment, whatever is in it


def read_npy(file: ScanFile) -> OctVolume:
    """Read one array of three axes; pickled objects are refused.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    content = file.content()
    header = _describe(file, BytesIO(content), sidecar)
    with refusing(file.where, "decode", "the array is cut off or damaged"):
        array = npy.read_array(BytesIO(content), allow_pickle=False)
    return plain_volume(file, array, sidecar, header)


def peek_npy(file: ScanFile) -> ScanHeader:
    """Shape and spacing of a .npy file from its first 16 kB and its sidecar.

    Raises:
        ScanError: stage `parse` or `geometry`.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    return _describe(file, BytesIO(file.head(HEAD_BYTES)), sidecar)


def read_npz(file: ScanFile) -> OctVolume:
    """Read the one array of three axes of an archive, or the one that is named.

    The name is that of `file.member`, or the `member` of a sidecar.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    content = file.content()
    with (
        refusing(file.where, "decode", "the archive is cut off or damaged"),
        zipfile.ZipFile(BytesIO(content)) as archive,
    ):
        name = _member(archive, file, sidecar)
        size = _unpacked_size(archive.getinfo(name), file.where)
        with archive.open(name) as stream:
            header = _describe(file, stream, sidecar, size)
        with archive.open(name) as stream:
            array = npy.read_array(stream, allow_pickle=False)
    return plain_volume(file, array, sidecar, header)


def read_mat(file: ScanFile) -> OctVolume:
    """Read the one array of three axes of a .mat file, or the one that is named as in an .npz.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    wanted = file.member if file.member is not None else sidecar.member
    found = read_arrays(file.content(), file.where, () if wanted is None else (wanted,))
    deep = [array for array in found.values() if array.ndim == 3]
    if len(deep) != 1:
        named = "member=" if wanted is None else f"another than '{wanted[:40]}'"
        reason = f"{len(deep)} of its arrays have three axes; name one with {named}"
        raise ScanError(file.where, "parse", reason)
    (array,) = deep
    check_bytes(array.shape, array.dtype.itemsize, file.where)
    header = sidecar_header(file, sidecar, sidecar_name(file), array.shape, array.dtype.itemsize)
    return plain_volume(file, array, sidecar, header)


def read_mhd(file: ScanFile) -> OctVolume:
    """Read a MetaImage whose axes are (column, row, bscan), as the RETOUCH challenge writes it.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    said, array = load_mhd(file)
    spacing = file.spacing or sidecar.spacing
    if spacing is None and said.spacing_mm is not None:
        placed = placement(
            Spacing(*said.spacing_mm), "spacing_between_slices", sidecar.pattern, said.shape[0]
        )
        pitch = said.spacing_mm[1], said.spacing_mm[2]
        header = plain_header(said.shape, array.dtype.itemsize, placed, pitch, sidecar)
    else:
        name = sidecar_name(file)
        header = sidecar_header(file, sidecar, name, said.shape, array.dtype.itemsize)
    return plain_volume(file, array, sidecar, header)


def load_mhd(file: ScanFile) -> tuple[MetaImage, NDArray[Any]]:
    """What the header of a MetaImage says, and the pixels beside it as they stand there.

    Raises:
        ScanError: stage `fetch`, `parse` or `decode`.
    """
    said = read_metaimage(file.text() or "", file.where)
    dtype = np.dtype(said.dtype)
    check_bytes(said.shape, dtype.itemsize, file.where)
    content = file.beside(said.pixels).content()
    if len(content) != int(np.prod(said.shape)) * dtype.itemsize:
        claimed = " x ".join(map(str, said.shape))
        reason = f"{len(content):,} bytes of pixels are not {claimed} of {dtype.itemsize}"
        raise ScanError(file.where, "decode", reason)
    return said, np.frombuffer(content, dtype).reshape(said.shape)


def load_npy(file: ScanFile) -> NDArray[Any]:
    """The array of a .npy file, of any number of axes, as it stands there.

    Raises:
        ScanError: stage `fetch`, `parse` or `decode`.
    """
    content = file.content()
    shape, dtype = _head(BytesIO(content), file.where)
    check_bytes(shape, dtype.itemsize, file.where)
    with refusing(file.where, "decode", "the array is cut off or damaged"):
        return npy.read_array(BytesIO(content), allow_pickle=False)


def load_npz(file: ScanFile, only: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of an archive by name, as they stand there; pickled objects are refused.

    All of them, or those of the names in `only` that are there.

    Raises:
        ScanError: stage `fetch`, `parse`, `decode` or `content`.
    """
    content, found = file.content(), dict[str, NDArray[Any]]()
    with (
        refusing(file.where, "decode", "the archive is cut off or damaged"),
        zipfile.ZipFile(BytesIO(content)) as archive,
    ):
        _check_members(archive, file)
        every = archive.infolist()
        chosen = [m for m in every if not only or m.filename.removesuffix(".npy") in only]
        check_bytes((1 + sum(_unpacked_size(m, file.where) for m in chosen),), 1, file.where)
        for member in chosen:
            with archive.open(member) as stream:
                shape, dtype = _head(stream, file.where)
            check_bytes(shape or (1,), dtype.itemsize, file.where)
            with archive.open(member) as stream:
                array = npy.read_array(stream, allow_pickle=False)
            found[member.filename.removesuffix(".npy")] = array
    return found


def peek_npz(file: ScanFile) -> ScanHeader:
    """Shape and spacing of the array that `read_npz` reads, of which only the head is unpacked.

    Of a file above 256 kB, its list of members at the end and the heads of arrays are fetched.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    with (
        refusing(file.where, "decode", "the archive is cut off or damaged"),
        zipfile.ZipFile(file.stream()) as archive,
    ):
        name = _member(archive, file, sidecar)
        size = _unpacked_size(archive.getinfo(name), file.where)
        with archive.open(name) as stream:
            return _describe(file, stream, sidecar, size)


def _member(archive: zipfile.ZipFile, file: ScanFile, sidecar: Sidecar) -> str:
    """Name of the array to read; headers are read, arrays are not."""
    names = _check_members(archive, file)
    wanted = file.member if file.member is not None else sidecar.member
    if wanted is not None:
        if f"{wanted}.npy" not in names:
            raise ScanError(file.where, "parse", "it has no array of the name that was asked for")
        return f"{wanted}.npy"
    deep = []
    for name in names:
        if name.endswith(".npy"):
            with archive.open(name) as stream:
                shape, _ = _head(stream, file.where)
            if len(shape) == 3:
                deep.append(name)
    if len(deep) != 1:
        reason = f"{len(deep)} of its arrays have three axes; name one with member="
        raise ScanError(file.where, "parse", reason)
    return deep[0]


def _check_members(archive: zipfile.ZipFile, file: ScanFile) -> list[str]:
    names = archive.namelist()
    if len(names) > MAX_MEMBERS:
        raise ScanError(file.where, "parse", f"{len(names):,} members, above {MAX_MEMBERS:,}")
    return names


def _unpacked_size(member: zipfile.ZipInfo, where: str) -> int:
    """Bytes of a member, refused before it is unpacked if no image packs as well as it does."""
    times = member.file_size / max(member.compress_size, 1)
    if member.file_size > SMALL_BYTES and times > MOST_PACKED:
        reason = f"{member.file_size:,} bytes packed {times:,.0f} times hold no image"
        raise ScanError(where, "content", reason)
    return member.file_size


def _head(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that the header of an array declares."""
    with refusing(where, "parse", "no NumPy array starts here"):
        stream = BytesIO(stream.read(HEAD_BYTES))  # a header may claim, and unpack to, gigabytes
        version = npy.read_magic(stream)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise ScanError(where, "parse", "it holds pickled objects, which are not read")
    return shape, dtype


def _describe(
    file: ScanFile, stream: IO[bytes], sidecar: Sidecar, size: int | None = None
) -> ScanHeader:
    """Header of the array that starts in `stream`; `size` is that of its archive member."""
    shape, dtype = _head(stream, file.where)
    if len(shape) != 3:
        raise ScanError(file.where, "parse", f"an array of shape {shape}, not of three axes")
    check_bytes(shape, dtype.itemsize, file.where)
    if size is not None and size < int(np.prod(shape)) * dtype.itemsize:
        raise ScanError(file.where, "decode", "the member is shorter than its array")
    return sidecar_header(file, sidecar, sidecar_name(file), shape, dtype.itemsize)
