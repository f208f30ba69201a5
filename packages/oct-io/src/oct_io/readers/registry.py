"""Which reader takes a file: every format by its ending, and the functions that pick one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from oct_io.errors import ScanError, StoreError, TreeError
from oct_io.readers.arrays import peek_npy, peek_npz, read_mat, read_mhd, read_npy, read_npz
from oct_io.readers.described import read_described
from oct_io.readers.e2e import read_e2e
from oct_io.readers.heidelberg import read_vol
from oct_io.readers.heyex_xml import read_heyex_xml
from oct_io.readers.lazy import LazyVolume, header_of, picked
from oct_io.readers.nifti import peek_nifti, read_nifti
from oct_io.readers.stacks import IMAGES, peek_image_folder, read_image_folder, read_tiff
from oct_io.readers.topcon import read_fda
from oct_io.readers.zeiss import read_img
from oct_io.scan.file import RASTER, ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import is_folder
from oct_io.volume import OctVolume, Pattern, Spacing

Reader = Callable[[ScanFile], OctVolume]


def read_dicom_file(file: ScanFile) -> OctVolume:
    """Read one DICOM file that is a whole volume; pydicom is imported by the first one."""
    from oct_io.readers import dicom

    return dicom.read_dicom_file(file)


READERS: dict[str, Reader] = {
    ".dcm": read_dicom_file,
    ".dicom": read_dicom_file,
    ".vol": partial(read_described, read_vol),
    ".xml": partial(read_described, read_heyex_xml),
    ".e2e": partial(read_described, read_e2e),
    ".fda": partial(read_described, read_fda),
    ".img": partial(read_described, read_img),
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".npy": read_npy,
    ".npz": read_npz,
    ".mat": read_mat,
    ".mhd": read_mhd,
    ".tif": read_tiff,
    ".tiff": read_tiff,
}
"""File name ending to reader. A file with the mark of DICOM is read as such whatever its name."""

PEEKERS: dict[str, Callable[[ScanFile], ScanHeader]] = {
    ".npy": peek_npy,
    ".npz": peek_npz,
    ".nii": peek_nifti,
    ".nii.gz": peek_nifti,
}
"""Formats besides DICOM whose first bytes tell enough; the others are decoded to be known."""

DICOM = (".dcm", ".dicom")
MARK_BYTES = 132  # DICM stands behind 128 bytes of anything

SUFFIXES: tuple[str, ...] = (
    *(".dcm", ".dicom", ".vol", ".e2e", ".fda", ".img", ".nii", ".nii.gz", ".npy", ".npz"),
)
"""Endings that make a file in a folder a scan. Left out are those that are mostly part of one (a
.tif may be one B-scan, an .xml lies among its images), and looked at; and what may as well be
something else (.mat, .mhd), which a manifest or a recipe names."""

FORMATS = (
    "Ophthalmic Tomography DICOM (.dcm), Heidelberg (.vol, .xml, .e2e), Topcon (.fda), "
    "Zeiss (.img), NIfTI (.nii, .nii.gz), NumPy (.npy, .npz), MATLAB (.mat), MetaImage (.mhd), "
    "TIFF (.tif), and folders of "
    "DICOM instances or of B-scan images"
)


def read_volume(
    url: str | Path | Sequence[str | Path],
    *,
    spacing: Spacing | None = None,
    patterns: Sequence[Pattern] = RASTER,
    member: str | None = None,
    sidecar: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> OctVolume:
    """Read one scan; a file is fetched in one request.

    Args:
        url: a local path or an fsspec URL of a file; or of a folder with the DICOM instances of one
            series, a HEYEX export, or B-scan images; or a sequence of DICOM instances.
        spacing: millimetres that stand above what the file says, source "given".
        patterns: scan patterns to admit; "line", "radial" and "circle" scans are no volumes, and
            what is read of them has no distance between B-scans (NaN).
        member: array of an .npz, series of an .e2e, where there are several.
        sidecar: what is said of all scans around it, as fields of a sidecar; what its own sidecar
            says stands above. None for the `volume.json` beside it. DICOM heeds neither.
        storage_options: for the fsspec filesystem.

    Raises:
        ScanError: with the stage at which it failed; `geometry` for patterns not admitted.
    """
    if not isinstance(url, (str, Path)):
        files = [_file(one, spacing, patterns, member, sidecar, storage_options) for one in url]
        if not files:
            raise ScanError("", "fetch", "no files were given")
        return _read_instances(files)
    file = _file(url, spacing, patterns, member, sidecar, storage_options)
    suffix = suffix_of(file.name)
    if suffix in READERS:
        return READERS[suffix](file)
    if _is_folder(file):
        return _read_folder(file)
    content = file.content()
    if content[128:132] == b"DICM":
        return _read_dicom(content, file)
    raise _unknown(file, suffix)


def open_volume(
    url: str | Path,
    *,
    spacing: Spacing | None = None,
    patterns: Sequence[Pattern] = RASTER,
    member: str | None = None,
    sidecar: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> LazyVolume:
    """Learn what the scan at `url` is; `.load()` decodes it, `.load(frames=[...])` a part of it.

    Of DICOM, .npy, .npz, NIfTI and folders of images only few bytes are fetched. Other formats
    spread what there is to know over the file, which is then read whole here and kept. Arguments as
    in `read_volume`; patterns that are not admitted are described here and refused by `.load()`.

    Raises:
        ScanError: stage `fetch`, `parse` or `geometry`.
    """
    file = _file(url, spacing, patterns, member, sidecar, storage_options)
    suffix = suffix_of(file.name)
    if suffix in PEEKERS:
        header = PEEKERS[suffix](file)
        return LazyVolume(header, file, partial(_load_part, READERS[suffix], header))
    if suffix not in READERS and _is_folder(file):
        seen = _peek_folder(file)
        if seen is not None:
            return LazyVolume(seen, file, partial(_load_part, _read_folder, seen))
    elif suffix not in READERS or suffix in DICOM:
        from oct_io.dicom.header import read_dicom_header

        header = read_dicom_header(file.url, spacing=spacing, storage_options=storage_options)
        return LazyVolume(header, file, _load_dicom)
    every: tuple[Pattern, ...] = ("raster", "radial", "circle", "line", "unknown")
    volume = read_volume(
        url,
        spacing=spacing,
        patterns=every,
        member=member,
        sidecar=sidecar,
        storage_options=storage_options,
    )
    note = "" if volume.pattern == "raster" else "not a volume"
    header = replace(header_of(volume), pattern_note=note)
    return LazyVolume(header, file, partial(_kept_part, volume, header))


def read_header(
    url: str | Path,
    *,
    spacing: Spacing | None = None,
    member: str | None = None,
    sidecar: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ScanHeader:
    """Read what the scan at `url` says about itself: geometry, device, eye; see `open_volume`.

    Of DICOM 256 kB are fetched, and more only while the header has not ended, never above 16 MB.

    Raises:
        ScanError: stage `fetch`, `parse`, or `decode` where no pixel data follows. Radial and
            circle scans are described, not refused.
    """
    return open_volume(
        url, spacing=spacing, member=member, sidecar=sidecar, storage_options=storage_options
    ).header


def suffix_of(name: str) -> str:
    """The ending that picks a reader, in small letters; "" without any."""
    lower = name.lower()
    known = [suffix for suffix in READERS if lower.endswith(suffix)]
    return max(known, key=len, default=Path(lower).suffix)


def _file(
    url: str | Path,
    spacing: Spacing | None,
    patterns: Sequence[Pattern],
    member: str | None,
    sidecar: Mapping[str, Any] | None,
    storage_options: Mapping[str, Any] | None,
) -> ScanFile:
    if isinstance(patterns, str):
        raise TypeError(f"patterns must be a sequence such as ('{patterns}',), not a text")
    return ScanFile(
        url=str(url),
        spacing=spacing,
        patterns=tuple(patterns),
        member=member,
        sidecar=sidecar,
        storage_options=storage_options,
    )


def _is_folder(file: ScanFile) -> bool:
    try:
        return is_folder(file.url, storage_options=file.storage_options)
    except StoreError:
        raise
    except TreeError:
        return False  # what cannot be asked is fetched, and that says why


def _read_folder(folder: ScanFile) -> OctVolume:
    """A folder that is one scan: what lies in it decides how it is read."""
    names = _names(folder)
    if instances := _instances(folder, names):
        return _read_instances(instances)
    xml = _ending(names, (".xml",))
    if len(xml) == 1:
        reader = partial(read_heyex_xml, names=names)
        return read_described(reader, folder.inside(xml[0]))
    if _ending(names, IMAGES):
        return read_image_folder(folder, names)
    reason = f"a folder with {len(names)} files and no scan among them; this reads {FORMATS}"
    raise ScanError(folder.where, "parse", reason)


def _peek_folder(folder: ScanFile) -> ScanHeader | None:
    """The header of a folder that is one scan; None where it must be decoded to be known."""
    names = _names(folder)
    if instances := _instances(folder, names):
        from oct_io.readers.dicom import peek_instances

        return peek_instances(instances)
    if _ending(names, IMAGES) and len(_ending(names, (".xml",))) != 1:
        return peek_image_folder(folder, names)
    return None


def _names(folder: ScanFile) -> list[str]:
    """Files of a folder without the hidden ones, which systems leave there."""
    return [name for name in folder.names() if not name.startswith(".")]


def _ending(names: Sequence[str], suffixes: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.lower().endswith(suffixes)]


def _instances(folder: ScanFile, names: Sequence[str]) -> list[ScanFile]:
    """DICOM files of a folder: by their ending, or by their mark where they have none."""
    named = [folder.inside(name) for name in _ending(names, DICOM)]
    bare = [folder.inside(name) for name in names if lacks_suffix(name)]
    return named + [file for file in bare if is_marked(file)]


def list_instances(file: ScanFile) -> list[ScanFile]:
    """DICOM files of a scan: itself, or those of the folder that it is."""
    if suffix_of(file.name) in DICOM or not _is_folder(file):
        return [file]
    return _instances(file, _names(file))


def is_dicom(file: ScanFile) -> bool:
    """Whether what has no ending that is known is DICOM, and no folder.

    Raises:
        ScanError: stage `fetch`.
    """
    return not _is_folder(file) and is_marked(file)


def lacks_suffix(name: str) -> bool:
    """Whether a name says nothing of the format, as `IM0001` or a UID, whose last part is digits.

    A DICOMDIR is only the table of contents of a disk, and is no scan.
    """
    return name != "DICOMDIR" and not re.search(r"\.[a-zA-Z][a-zA-Z0-9_~-]*$", name)


def is_marked(file: ScanFile) -> bool:
    """Whether a file bears the mark of DICOM; its first 132 bytes are fetched.

    Raises:
        ScanError: stage `fetch`.
    """
    return file.head(MARK_BYTES)[128:] == b"DICM"


def _unknown(file: ScanFile, suffix: str) -> ScanError:
    reason = f"unknown format '{suffix or 'no suffix'}'; this reads {FORMATS}"
    return ScanError(file.where, "parse", reason)


def _load_dicom(file: ScanFile, frames: tuple[int, ...] | None) -> OctVolume:
    return _read_dicom(file.content(), file, frames)


def _read_dicom(content: bytes, file: ScanFile, frames: tuple[int, ...] | None = None) -> OctVolume:
    from oct_io.readers.dicom import read_dicom

    return read_dicom(
        content, file.where, patterns=file.patterns, spacing=file.spacing, frames=frames
    )


def _read_instances(files: Sequence[ScanFile]) -> OctVolume:
    from oct_io.readers.dicom import read_instances

    return read_instances(files)


def _load_part(
    reader: Reader, header: ScanHeader, file: ScanFile, frames: tuple[int, ...] | None
) -> OctVolume:
    volume = reader(file)
    return volume if frames is None else picked(volume, header, frames, file.where)


def _kept_part(
    volume: OctVolume, header: ScanHeader, file: ScanFile, frames: tuple[int, ...] | None
) -> OctVolume:
    return volume if frames is None else picked(volume, header, frames, file.where)
