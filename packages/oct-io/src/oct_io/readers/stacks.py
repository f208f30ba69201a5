"""B-scan images: stacks of them, a TIFF of pages or a folder of files, and single ones."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError, refusing
from oct_io.readers.extras import needed, quiet
from oct_io.readers.plain import UNKNOWN, plain_volume, sidecar_header
from oct_io.readers.sidecar import FOLDER_SIDECAR, Sidecar, read_sidecar, sidecar_name
from oct_io.scan.content import check_content
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import implausible
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import check_bytes
from oct_io.volume import OctVolume, SpacingSource

IMAGES = (".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg")
PILLOW_FORMATS = ("PNG", "BMP", "TIFF", "JPEG")
"""What may be in a file with such an ending. Pillow goes by the content and starts Ghostscript on
PostScript, whatever its name."""
MAX_IMAGES = 8192
PHOTOMETRIC, MIN_IS_WHITE = 0x0106, 0  # the tag of TIFF that says what 0 means, and its negatives
TURNED = 0x0112  # the tag of TIFF and Exif that says how an image is turned
ON_THEIR_SIDE = (5, 6, 7, 8)  # its values for which rows are columns
TINT = 16  # levels that the channels of a grey JPEG may differ by; a few pixels of real ones by 24
COLOURED_SHARE = 0.01  # of the pixels; a coloured mark in a corner is no coloured image
HEAD_BYTES = 64 << 10  # says size and depth of an image, but of a TIFF that says them at its end


def read_tiff(file: ScanFile) -> OctVolume:
    """Read a TIFF whose pages are B-scans, with its sidecar.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, sidecar_name(file))
    return _volume(file, load_tiff(file, shown=True), sidecar, sidecar_name(file))


def load_tiff(file: ScanFile, *, shown: bool = False) -> NDArray[Any]:
    """Values of the pages of a TIFF, one B-scan each, as they stand there.

    Args:
        file: where it lies.
        shown: pages whose 0 is white are turned, so that black is 0 in all. Of masks the numbers
            count: ImageJ writes a class of 255 on 0 as such pages.

    Raises:
        ScanError: stage `fetch`, `parse` or `decode`.
    """
    tifffile = needed("tifffile", "formats", file.where)
    content = BytesIO(file.content())
    with (
        refusing(file.where, "decode", "not a readable TIFF, or damaged"),
        without_warnings(),
        quiet("tifffile"),
        tifffile.TiffFile(content) as stack,
    ):
        page = stack.pages[0]
        if len(stack.pages) == 1 and len(stack.series[0].shape) == 3:
            shape = tuple(stack.series[0].shape)  # ImageJ writes one page for a large stack
        else:
            shape = (len(stack.pages), *page.shape)
        check_bytes(shape, page.dtype.itemsize, file.where)
        if any(other.shape != page.shape for other in stack.pages):
            raise ScanError(file.where, "parse", "its pages differ in size")
        array = np.asarray(stack.asarray(key=None if len(stack.pages) == 1 else slice(None)))
        array = array.reshape(shape)
        white = array.dtype.type(2**page.bitspersample - 1) if array.dtype.kind in "bu" else None
        negative = [one.photometric == MIN_IS_WHITE for one in stack.pages]
    if shown and white is not None and any(negative):
        array[np.resize(negative, len(array))] ^= white
    return array


def read_image_folder(file: ScanFile, names: list[str]) -> OctVolume:
    """Read a folder of B-scan images, in the natural order of their names, with `volume.json`.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, FOLDER_SIDECAR)
    return _volume(file, read_images(file, image_names(names)), sidecar, FOLDER_SIDECAR)


def peek_image_folder(file: ScanFile, names: list[str]) -> ScanHeader:
    """Shape and spacing of a folder of B-scan images, from the head of the first one.

    Raises:
        ScanError: with its stage.
    """
    sidecar = read_sidecar(file, FOLDER_SIDECAR)
    chosen = image_names(names)
    _check_count(file, chosen)
    first = file.inside(chosen[0])
    try:
        rows, columns, mode = _measure(first, first.head(HEAD_BYTES), chosen)
    except ScanError:  # a TIFF may say it at its end
        rows, columns, mode = _measure(first, first.content(), chosen)
    shape, itemsize = (len(chosen), rows, columns), 2 if mode.startswith("I") else 1
    check_bytes(shape, itemsize, file.where)
    return sidecar_header(file, sidecar, FOLDER_SIDECAR, shape, itemsize)


def is_stack(file: ScanFile) -> bool:
    """Whether a TIFF has several pages, so that it is a scan and not one B-scan of it.

    Raises:
        ScanError: it cannot be told.
    """
    tifffile = needed("tifffile", "formats", file.where)
    with refusing(file.where, "decode", "not a readable TIFF, or damaged"):
        stream = file.stream()
        with without_warnings(), quiet("tifffile"), tifffile.TiffFile(stream) as stack:
            return len(stack.pages) > 1 or (stack.is_imagej and len(stack.series[0].shape) == 3)


def _measure(file: ScanFile, content: bytes, names: list[str]) -> tuple[int, int, str]:
    """(rows, columns, mode) of the first image, which is not decoded."""
    needed("PIL.Image", "formats", file.where)
    from PIL import Image

    with (
        refusing(file.where, "decode", f"image 1 of {len(names)} is not a readable image"),
        without_warnings(),
        Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image,
    ):
        if image.format != "TIFF" and image.getexif().get(TURNED) in ON_THEIR_SIDE:
            return image.width, image.height, image.mode
        return image.height, image.width, image.mode


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep libraries from warning of damage, which a volume or a refusal says."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def image_names(names: list[str]) -> list[str]:
    """Those of the files in a folder that are images, in natural order."""
    return natural_order(name for name in names if name.lower().endswith(IMAGES))


def _check_count(folder: ScanFile, names: list[str]) -> None:
    if not 0 < len(names) <= MAX_IMAGES:
        reason = f"{len(names):,} images ({', '.join(IMAGES)}), not 1 to {MAX_IMAGES:,}"
        raise ScanError(folder.where, "parse", reason)


def natural_order(names: Any) -> list[str]:
    """Names sorted so that `2.png` comes before `10.png`."""
    return sorted(
        names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]
    )


def read_images(folder: ScanFile, names: list[str]) -> NDArray[Any]:
    """Images of one size as one array, (images, rows, columns).

    Raises:
        ScanError: stage `decode` or `parse`, with the number of the image.
    """
    _check_count(folder, names)
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


def read_image(file: ScanFile, called: str, *, page: int | None = None) -> NDArray[Any]:
    """One grey image, (rows, columns), uint8 or uint16, upright as its orientation tag says.

    Of a coloured image that is grey in content, the mean of its channels is taken, which is any of
    them where they are equal.

    Args:
        file: where it lies.
        called: what messages call it.
        page: which of several, from 0; None refuses an image with several.

    Raises:
        ScanError: stage `decode`, or `parse` for colour.
    """
    needed("PIL.Image", "formats", file.where)
    from PIL import Image, ImageOps

    content = file.content()
    with (
        refusing(file.where, "decode", f"{called} is not a readable image"),
        without_warnings(),
        Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image,
    ):
        pages = getattr(image, "n_frames", 1)
        if page is None and pages > 1:
            raise ScanError(file.where, "parse", f"{called} has several pages")
        if page is not None and page >= pages:
            raise ScanError(file.where, "parse", f"it has no {called}, only {pages}")
        if page:
            image.seek(page)
        check_bytes((image.height, image.width), 4, file.where)
        if image.mode == "F":
            reason = f"{called} has grey levels that are no whole numbers; write 8 or 16 bit"
            raise ScanError(file.where, "content", reason)
        upright = ImageOps.exif_transpose(image)
        plain = upright.mode.startswith("I") or upright.mode == "L"
        array = np.asarray(upright if plain else upright.convert("RGB"))
        if image.mode == "I;16" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == MIN_IS_WHITE:
            array = 65535 - array  # which Pillow does for 8 bits alone
    if array.ndim == 3:
        return _without_colour(array, file, called)
    if array.dtype.itemsize > 2 and (array.min() < 0 or array.max() > 65535):
        raise ScanError(file.where, "content", f"{called} has grey levels outside 0 to 65,535")
    return array.astype(np.uint16) if array.dtype.itemsize > 1 else array


def _without_colour(array: NDArray[Any], file: ScanFile, called: str) -> NDArray[np.uint8]:
    """The grey image of (rows, columns, 3) uint8.

    Raises:
        ScanError: stage `parse`: it is coloured.
    """
    low, high = array.min(axis=2), array.max(axis=2)
    if np.array_equal(low, high):
        return low
    if np.count_nonzero(high - low > TINT) > COLOURED_SHARE * low.size:
        raise ScanError(file.where, "parse", f"{called} is coloured; B-scans are grey")
    return np.rint(array.mean(axis=2, dtype=np.float32)).astype(np.uint8)


def _volume(file: ScanFile, array: NDArray[Any], sidecar: Sidecar, name: str) -> OctVolume:
    if array.ndim != 3:
        reason = f"an array of shape {array.shape}; B-scans are grey images of one size"
        raise ScanError(file.where, "parse", reason)
    header = sidecar_header(file, sidecar, name, array.shape, array.dtype.itemsize)
    return plain_volume(file, array, sidecar, header)


def read_bscan(file: ScanFile) -> OctVolume:
    """Read one B-scan as a volume of one, of pattern "line".

    `file.spacing` says millimetres if anybody knows them (its first number is not read), and
    `file.member` numbers the page of a TIFF, from 1. Without millimetres all of the spacing is NaN,
    from the source "unknown".

    Raises:
        ScanError: stage `decode`, `parse`, `content`, or `geometry` for millimetres of no scan.
    """
    page = None if file.member is None else page_of(file)
    array = read_image(file, "the image" if page is None else f"page {page + 1}", page=page)
    check_content(array[None], file.where)
    spacing = UNKNOWN if file.spacing is None else file.spacing._replace(bscan=np.nan)
    if file.spacing is not None and (wrong := implausible(*spacing)):
        raise ScanError(file.where, "geometry", wrong)
    source: SpacingSource = "unknown" if file.spacing is None else "none"
    return OctVolume(array[None], spacing, source, pattern="line")


def count_pages(file: ScanFile) -> int:
    """Images in a file; no voxel is decoded.

    Raises:
        ScanError: stage `fetch` or `decode`, or `parse` for more than `MAX_IMAGES`.
    """
    needed("PIL.Image", "formats", file.where)
    from PIL import Image

    content = file.content()
    with (
        refusing(file.where, "decode", "it is not a readable image"),
        without_warnings(),
        Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image,
    ):
        pages = int(getattr(image, "n_frames", 1))
    if pages > MAX_IMAGES:
        raise ScanError(file.where, "parse", f"{pages:,} pages, above {MAX_IMAGES:,}")
    return pages


def page_of(file: ScanFile) -> int:
    """Number, from 0, of the page that `file.member` numbers from 1.

    Raises:
        ScanError: stage `parse`: no such number.
    """
    text = file.member or ""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MAX_IMAGES):
        raise ScanError(file.where, "parse", f"a page is a number from 1 to {MAX_IMAGES:,}")
    return int(text) - 1
