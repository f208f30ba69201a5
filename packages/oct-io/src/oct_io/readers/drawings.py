"""Images in which a class is a grey level: read as they were drawn, no level between two."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError
from oct_io.readers.extras import needed
from oct_io.readers.stacks import PILLOW_FORMATS, without_warnings
from oct_io.scan.file import ScanFile
from oct_io.scan.outcome import check_bytes

COLOUR = "it is coloured; draw each class in one grey level, 0 for the background"


def read_drawing(
    file: ScanFile, *, page: int | None = None
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Grey levels of an image, (rows, columns), upright as its orientation tag says.

    Black and white are 0 and 255. Of a palette the grey counts that a viewer shows, or, where it
    shows colours, the number in the palette. Channels must agree in every pixel.

    Args:
        file: where it lies.
        page: which of several, from 0; None refuses an image with several.

    Raises:
        ScanError: stage `fetch` or `decode`, or `parse` for colours, pages, or levels above 65,535.
    """
    needed("PIL.Image", "formats", file.where)
    from PIL import Image, ImageOps

    content = file.content()
    try:
        with without_warnings(), Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image:
            pages = getattr(image, "n_frames", 1)
            if (page is None and pages > 1) or (page or 0) >= pages:
                reason = f"it has {pages} pages, of which the image needs {(page or 0) + 1}"
                raise ScanError(file.where, "parse", reason)
            image.seek(page or 0)
            check_bytes((image.height, image.width), 4, file.where)
            array = _levels(ImageOps.exif_transpose(image))
    except ScanError:
        raise
    except Exception as error:  # pillow promises no set of errors for damaged bytes
        reason = f"it is not a readable image ({type(error).__name__})"
        raise ScanError(file.where, "decode", reason) from None
    if array.ndim != 2:
        raise ScanError(file.where, "parse", COLOUR)
    if array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 65535:
        reason = "it has grey levels that are no whole numbers from 0 to 65,535"
        raise ScanError(file.where, "parse", reason)
    return array.astype(np.uint16) if array.dtype.itemsize > 1 else array


def _levels(image: Any) -> NDArray[Any]:
    """(rows, columns), or more axes if it shows colours."""
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode in ("P", "PA"):
        shown = _grey(np.asarray(image.convert("RGB")))
        return shown if shown.ndim == 2 else np.asarray(image.getchannel(0))
    if image.mode == "LA":
        return np.asarray(image.getchannel(0))
    if image.mode in ("RGB", "RGBA", "RGBX"):
        return _grey(np.asarray(image.convert("RGB")))
    return np.asarray(image)


def _grey(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel where all agree, else all of them."""
    return array[..., 0] if (array == array[..., :1]).all() else array
