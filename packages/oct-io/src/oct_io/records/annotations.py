"""Masks and layer boundaries that lie in files of their own, beside a scan or anywhere."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.boundaries import with_standard_names
from oct_io.errors import ScanError
from oct_io.readers.arrays import load_mhd, load_npy, load_npz
from oct_io.readers.nifti import load_nifti
from oct_io.readers.plain import arranged
from oct_io.readers.registry import DICOM, READERS, is_dicom, list_instances, suffix_of
from oct_io.readers.sidecar import Sidecar, read_sidecar, sidecar_name
from oct_io.readers.stacks import image_names, load_tiff, read_images
from oct_io.scan.file import ScanFile
from oct_io.scan.header import text
from oct_io.scan.masks import Mask, Shape, number_classes
from oct_io.volume import OctVolume

MASK_ENDINGS = (".nii.gz", ".nii", ".npz", ".npy", ".tif", ".tiff", ".dcm")
LAYER_ENDING = ".npz"
MEMBER, NAMES = "mask", "names"  # arrays of an .npz that holds more than one
INVALID = 1e30  # no boundary lies so deep; some writers have such a number for "unknown"


def add_annotations(
    volume: OctVolume, scan: ScanFile, *, mask: ScanFile | None, layers: ScanFile | None
) -> OctVolume:
    """The volume with the mask and the boundaries that these files hold.

    Boundaries are added to those that the scan came with, and stand above them.

    Raises:
        ScanError: as `read_mask` and `read_layers`; it names the scan's annotation.
    """
    bscans, rows, columns = shape = volume.voxels.shape
    if mask is not None:
        found = read_mask(mask, scan, (bscans, rows, columns))
        volume = replace(volume, mask=found.labels, mask_names=found.names)
    if layers is not None:
        read = read_layers(layers, (shape[0], shape[2]))
        volume = replace(volume, layers=with_standard_names({**volume.layers, **read}))
    return volume


def read_mask(file: ScanFile, scan: ScanFile, shape: Shape) -> Mask:
    """The mask in `file`: DICOM SEG, NIfTI, NumPy, MetaImage, a TIFF, or a folder of images.

    A segmentation says itself on which frames it lies. Other files have the axes of the scan's own
    file, so that what its sidecar says of axes holds for both, and after a format of a scanner or
    DICOM the axes of the loaded volume. Classes have the names that an .npz has as `names`, or the
    `mask_classes` of a sidecar, that of the mask first.

    Args:
        file: the mask.
        scan: what it is of.
        shape: of the loaded volume.

    Raises:
        ScanError: stage `fetch`, `parse`, `decode` or `geometry`.
    """
    suffix = suffix_of(file.name)
    if suffix in DICOM or (suffix not in READERS and is_dicom(file)):
        from oct_io.dicom.segmentation import read_segmentation
        from oct_io.readers.dicom import list_frames

        return read_segmentation(
            file.content(), list_frames(list_instances(scan)), shape, file.where
        )
    said, names = _said(file, scan), tuple[str, ...]()
    if suffix in (".nii", ".nii.gz"):
        array = load_nifti(file, said)
    elif suffix == ".mhd":
        array = load_mhd(file)[1]
    elif suffix == ".npz":
        array, names = _from_archive(load_npz(file), file.where)
        array = arranged(array, said.axes)
    elif suffix in (".npy", ".tif", ".tiff"):
        array = arranged(
            _deep(load_npy(file) if suffix == ".npy" else load_tiff(file), file), said.axes
        )
    else:
        array = arranged(read_images(file, image_names(file.names())), said.axes)
    return number_classes(array, names or said.mask_classes, shape, file.where)


def peek_classes(file: ScanFile, scan: ScanFile) -> tuple[str, ...]:
    """Names of the classes of the mask in `file`, of which no voxel is read; none if nobody says.

    Raises:
        ScanError: as `read_mask`.
    """
    suffix = suffix_of(file.name)
    if suffix in DICOM or (suffix not in READERS and is_dicom(file)):
        from oct_io.dicom.segmentation import peek_segmentation

        header = peek_segmentation(file.url, storage_options=file.storage_options)
        if header is None:
            raise ScanError(file.where, "parse", "holds no Segmentation Storage")
        return header.names
    names = load_npz(file, only=(NAMES,)).get(NAMES) if suffix == ".npz" else None
    return _said(file, scan).mask_classes if names is None else tuple(map(text, names.tolist()))


def read_layers(file: ScanFile, plane: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Boundaries of an .npz with an array a boundary, (bscans, columns) rows of the loaded volume.

    Raises:
        ScanError: stage `fetch`, `parse` or `decode`.
    """
    if suffix_of(file.name) != LAYER_ENDING:
        raise ScanError(file.where, "parse", "boundaries are read of an .npz, an array each")
    found = {}
    for name, array in load_npz(file).items():
        if array.shape != plane or array.dtype.kind not in "iuf":
            reason = (
                f"boundary {text(name)} is {array.dtype} {array.shape}, not numbers for "
                f"{plane[0]} B-scans of {plane[1]} A-scans"
            )
            raise ScanError(file.where, "parse", reason)
        rows = array.astype(np.float32)
        rows[~(np.abs(rows) < INVALID)] = np.nan
        found[text(name)] = rows
    return with_standard_names(found)


def _said(file: ScanFile, scan: ScanFile) -> Sidecar:
    """What sidecars say of a mask: its own, then those of its scan."""
    own = read_sidecar(replace(file, sidecar={}), sidecar_name(file))
    if suffix_of(scan.name) not in PLAIN:
        return replace(own, mask_classes=own.mask_classes or _classes_above(scan))
    above = read_sidecar(scan, sidecar_name(scan))
    return replace(
        above, axes=own.axes or above.axes, mask_classes=own.mask_classes or above.mask_classes
    )


PLAIN = (".nii", ".nii.gz", ".npy", ".npz", ".tif", ".tiff", "")
"""Endings of scans whose sidecar says what their axes are; "" is a folder of images."""


def _classes_above(scan: ScanFile) -> tuple[str, ...]:
    names = (scan.sidecar or {}).get("mask_classes", ())
    return tuple(map(text, names))


def _from_archive(
    arrays: Mapping[str, NDArray[Any]], where: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The labels and the names of an archive."""
    deep = {name: array for name, array in arrays.items() if array.ndim == 3}
    chosen = deep.get(MEMBER, next(iter(deep.values()))) if deep else None
    if chosen is None or (len(deep) > 1 and MEMBER not in deep):
        reason = f"{len(deep)} of its arrays have three axes; call the one `{MEMBER}`"
        raise ScanError(where, "parse", reason)
    names = arrays.get(NAMES)
    if names is None:
        return chosen, ()
    if names.ndim != 1 or names.dtype.kind != "U":
        raise ScanError(where, "parse", f"`{NAMES}` must be one row of texts")
    return chosen, tuple(map(text, names.tolist()))


def _deep(array: NDArray[Any], file: ScanFile) -> NDArray[Any]:
    if array.ndim != 3:
        raise ScanError(file.where, "parse", f"an array of shape {array.shape}, not of three axes")
    return array
