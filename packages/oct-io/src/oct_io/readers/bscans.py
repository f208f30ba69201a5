"""Single B-scans: an image is one, and so is each page of a TIFF."""

from io import BytesIO

import numpy as np

from oct_io.errors import ScanError
from oct_io.readers.extras import needed
from oct_io.readers.stacks import PILLOW_FORMATS, read_image, without_warnings
from oct_io.scan.content import check_content
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import implausible
from oct_io.volume import OctVolume, Spacing, SpacingSource

UNKNOWN = Spacing(np.nan, np.nan, np.nan)
MAX_PAGES = 8192


def read_bscan(file: ScanFile) -> OctVolume:
    """Read one B-scan as a volume of one, of pattern "line".

    `file.spacing` says millimetres if anybody knows them (its first number is not read), and
    `file.member` numbers the page of a TIFF, from 1. Without millimetres all of the spacing is NaN,
    from the source "unknown".

    Raises:
        ScanError: stage `decode`, `parse`, `content`, or `geometry` for millimetres of no scan.
    """
    page = None if file.member is None else _page(file)
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
        ScanError: stage `fetch` or `decode`, or `parse` for more than `MAX_PAGES`.
    """
    needed("PIL.Image", "formats", file.where)
    from PIL import Image

    content = file.content()
    try:
        with without_warnings(), Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image:
            pages = int(getattr(image, "n_frames", 1))
    except Exception as error:  # pillow promises no set of errors for damaged bytes
        reason = f"it is not a readable image ({type(error).__name__})"
        raise ScanError(file.where, "decode", reason) from None
    if pages > MAX_PAGES:
        raise ScanError(file.where, "parse", f"{pages:,} pages, above {MAX_PAGES:,}")
    return pages


def _page(file: ScanFile) -> int:
    """Number of the page, from 0."""
    text = file.member or ""
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= MAX_PAGES):
        raise ScanError(file.where, "parse", f"a page is a number from 1 to {MAX_PAGES:,}")
    return int(text) - 1
