"""Stacks of B-scan images: a TIFF with one B-scan a page, or a folder with one a file."""

import re
import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.readers.extras import needed, quiet
from oct_io.readers.plain import (
    FOLDER_SIDECAR,
    Sidecar,
    arranged,
    arranged_shape,
    grey,
    place,
    plain_header,
    read_sidecar,
    sidecar_name,
)
from oct_io.scan.file import ScanFile
from oct_io.scan.outcome import check_bytes, complete
from oct_io.volume import OctVolume

IMAGES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
MAX_IMAGES = 8192


def read_tiff(file: ScanFile) -> OctVolume:
    """Read a TIFF whose pages are B-scans, with its sidecar.

    Raises:
        ScanError: with its stage.
    """
    tifffile = needed("tifffile", "formats", file.where)
    sidecar = read_sidecar(file, sidecar_name(file))
    content = BytesIO(file.content())
    try:
        with warnings.catch_warnings(), quiet("tifffile"), tifffile.TiffFile(content) as stack:
            warnings.simplefilter("ignore")
            page = stack.pages[0]
            if len(stack.pages) == 1 and len(stack.series[0].shape) == 3:
                shape = tuple(stack.series[0].shape)  # ImageJ writes one page for a large stack
            else:
                shape = (len(stack.pages), *page.shape)
            check_bytes(shape, page.dtype.itemsize, file.where)
            if any(other.shape != page.shape for other in stack.pages):
                raise ScanError(file.where, "parse", "its pages differ in size")
            array = np.asarray(stack.asarray(key=None if len(stack.pages) == 1 else slice(None)))
    except ScanError:
        raise
    except Exception as error:  # tifffile promises no set of errors for damaged bytes
        reason = f"not a readable TIFF, or damaged ({type(error).__name__})"
        raise ScanError(file.where, "decode", reason) from None
    return _volume(file, array.reshape(shape), sidecar, sidecar_name(file))


def read_image_folder(file: ScanFile, names: list[str]) -> OctVolume:
    """Read a folder of B-scan images, in the natural order of their names, with `volume.json`.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, FOLDER_SIDECAR)
    chosen = natural_order(name for name in names if name.lower().endswith(IMAGES))
    return _volume(file, read_images(file, chosen), sidecar, FOLDER_SIDECAR)


def natural_order(names: Any) -> list[str]:
    """Names sorted so that `2.png` comes before `10.png`."""
    return sorted(
        names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )


def read_images(folder: ScanFile, names: list[str]) -> NDArray[Any]:
    """Images of one size as one array, (images, rows, columns).

    Raises:
        ScanError: stage `decode` or `parse`, with the number of the image.
    """
    if not 0 < len(names) <= MAX_IMAGES:
        reason = f"{len(names):,} images ({', '.join(IMAGES)}), not 1 to {MAX_IMAGES:,}"
        raise ScanError(folder.where, "parse", reason)
    stack: NDArray[Any] | None = None
    for number, name in enumerate(names):
        image = read_image(folder.inside(name), f"image {number + 1} of {len(names)}")
        if stack is None:
            check_bytes((len(names), *image.shape), image.dtype.itemsize, folder.where)
            stack = np.empty((len(names), *image.shape), dtype=image.dtype)
        if image.shape != stack.shape[1:] or image.dtype != stack.dtype:
            reason = f"image {number + 1} of {len(names)} differs from the first in size or depth"
            raise ScanError(folder.where, "parse", reason)
        stack[number] = image
    assert stack is not None
    return stack


def read_image(file: ScanFile, called: str) -> NDArray[Any]:
    """One grey image, (rows, columns), uint8 or uint16; coloured ones only if all grey.

    Raises:
        ScanError: stage `decode`, or `parse` for colour.
    """
    needed("PIL.Image", "formats", file.where)
    from PIL import Image

    content = file.content()
    try:
        with warnings.catch_warnings(), Image.open(BytesIO(content)) as image:
            warnings.simplefilter("ignore")
            check_bytes((image.height, image.width), 4, file.where)
            deep = image.mode.startswith("I")
            array = np.asarray(image if deep or image.mode == "L" else image.convert("RGB"))
    except ScanError:
        raise
    except Exception as error:  # pillow promises no set of errors for damaged bytes
        reason = f"{called} is not a readable image ({type(error).__name__})"
        raise ScanError(file.where, "decode", reason) from None
    if array.ndim == 3:
        if (array != array[..., :1]).any():
            raise ScanError(file.where, "parse", f"{called} is coloured; B-scans are grey")
        array = array[..., 0]
    return array.astype(np.uint16) if array.dtype.itemsize > 1 else array


def _volume(file: ScanFile, array: NDArray[Any], sidecar: Sidecar, name: str) -> OctVolume:
    if array.ndim != 3:
        reason = f"an array of shape {array.shape}; B-scans are grey images of one size"
        raise ScanError(file.where, "parse", reason)
    shape = arranged_shape(array.shape, sidecar.axes)
    placed = place(file, sidecar, name, shape[0])
    spacing = file.spacing or sidecar.spacing
    assert spacing is not None  # `place` refused otherwise
    pitch = (spacing.row, spacing.column)
    header = plain_header(shape, array.dtype.itemsize, placed, pitch, sidecar)
    voxels = grey(arranged(array, sidecar.axes), sidecar.value_range, file.where)
    return complete(voxels, header, file.where, patterns=file.patterns)
