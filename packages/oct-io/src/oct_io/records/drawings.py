"""Masks that are drawn as images: which B-scan each is of, by its name, and its grey levels."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from os.path import realpath
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError, TreeError, refusing
from oct_io.readers.extras import needed
from oct_io.readers.stacks import IMAGES, PILLOW_FORMATS, without_warnings
from oct_io.records.companions import MASK
from oct_io.scan.file import ScanFile
from oct_io.scan.outcome import check_bytes
from oct_io.storage.files import exists, join, list_tokens, redact

SETTING = "data.bscans.masks"
RULE = (
    "a mask lies there as its image lies below data.root, or has its file name where one of both "
    f"lies in no folder, with or without {MASK} at the end; or data.bscans.table names it (column "
    "mask)"
)
COLOUR = "it is coloured; draw each class in one grey level, 0 for the background"


class MaskFolder:
    """The images of `url`, masks of the B-scans below `root`.

    Attributes:
        tokens: what changes when a mask does, by its path from `root`, or by its address.

    Args:
        url: a local folder or an fsspec URL, beside the root, below it, or the root itself; then
            the images whose names end in _mask are the masks.
        root: of the B-scans.

    Raises:
        TreeError: no such folder, or no image in it.
    """

    def __init__(self, url: str, root: str) -> None:
        self._url, self._root, self.where = _whole(url), _whole(root), f"{redact(url)} ({SETTING})"
        if not exists(url):
            raise TreeError(f"{self.where}: no such folder")
        listed = {path: token for path, token in list_tokens(url).items() if self._is_mask(path)}
        if not listed:
            alone = f" whose names end in {MASK}" if self._url == self._root else ""
            raise TreeError(f"{self.where}: no masks; looked for {', '.join(IMAGES)}{alone}")
        self._paths = list(listed)
        self.tokens = {self.address(path): token for path, token in listed.items()}

    def _is_mask(self, path: str) -> bool:
        if not path.lower().endswith(IMAGES) or any(one[0] == "." for one in path.split("/")):
            return False
        if self._url == self._root:
            return stem_of(path).endswith(MASK)
        below = self._root.startswith(f"{self._url}/")  # then the images lie there, too
        return not (below and join(self._url, path).startswith(f"{self._root}/"))

    def address(self, path: str) -> str:
        """A mask as its record names it: from the root if it lies there, else as a whole."""
        return join(self._url, path).removeprefix(f"{self._root}/")

    def without(self, images: Sequence[str]) -> list[str]:
        """The images below the root that are no masks."""
        return [path for path in images if path not in self.tokens]

    def pair(self, images: Sequence[str], stated: Mapping[str, str]) -> dict[str, str]:
        """Image to the address of its mask; those without one are left out.

        Args:
            images: by their paths below the root.
            stated: image to path or name of its mask, as a table says it.

        Raises:
            TreeError: a mask without an image, an image with two, or a mask of several images.
        """
        found, known = dict[str, str](), by_name(self._paths)
        for image, name in stated.items():
            found[image] = self._only(known.get(name, []), "a mask of data.bscans.table")
        taken, named = set(found.values()), by_name(images)
        bare = by_name([path for path in images if "/" not in path])
        stems: dict[str, list[str]] = {}
        for path in images:
            stems.setdefault(stem_of(path), []).append(path)
        lost: list[int] = []
        for number, mask in enumerate(self._paths, start=1):
            if mask in taken:
                continue
            owners = _owners(mask, stems=stems, named=bare if "/" in mask else named)
            if not owners:
                lost.append(number)
                continue
            image = self._only(owners, f"the image of mask {number} by path")
            if image in found:
                raise TreeError(f"{self.where}: mask {number} by path is the second of its image")
            found[image] = mask
        if lost:
            every = f"{len(self._paths):,} masks"
            what = f"none of {every} is of an image"
            if len(lost) < len(self._paths):
                what = f"{len(lost):,} of {every} are of no image, by path number {lost[0]:,} first"
            raise TreeError(f"{self.where}: {what}; below data.root lie {len(images):,}; {RULE}")
        return {image: self.address(mask) for image, mask in found.items()}

    def _only(self, paths: Sequence[str], what: str) -> str:
        if len(paths) == 1:
            return paths[0]
        there = f"{len(paths)} of that name are there" if paths else "is not there"
        raise TreeError(f"{self.where}: {what}: {there}; {RULE}")


def by_name(paths: Sequence[str]) -> dict[str, list[str]]:
    """Files by their path and by their name, each with and without the ending."""
    found: dict[str, list[str]] = {}
    for path in paths:
        last = path.rpartition("/")[2]
        for name in {path, stem_of(path), last, stem_of(last)}:
            found.setdefault(name, []).append(path)
    return found | {path: [path] for path in paths}


def stem_of(path: str) -> str:
    """A path without its ending."""
    return path[: -len(suffix)] if (suffix := PurePosixPath(path).suffix) else path


def _owners(
    mask: str, *, stems: Mapping[str, Sequence[str]], named: Mapping[str, Sequence[str]]
) -> Sequence[str]:
    """Images that a mask may be of: of its path, else of its name if one of both has no folder.

    Args:
        mask: its path.
        stems: images by their path without the ending.
        named: images by their name: of a mask in a folder those that lie in none.
    """
    for one in dict.fromkeys((stem_of(mask), stem_of(mask).removesuffix(MASK))):
        if exact := stems.get(one, ()):
            return [mask] if mask in exact else exact
        if flat := named.get(one.rpartition("/")[2], ()):
            return flat
    return ()


def _whole(url: str) -> str:
    """An address that can be compared with another one."""
    return url.rstrip("/") if "://" in url else realpath(url)


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
    with (
        refusing(file.where, "decode", "it is not a readable image"),
        without_warnings(),
        Image.open(BytesIO(content), formats=PILLOW_FORMATS) as image,
    ):
        pages = getattr(image, "n_frames", 1)
        if (page is None and pages > 1) or (page or 0) >= pages:
            reason = f"it has {pages} pages, of which the image needs {(page or 0) + 1}"
            raise ScanError(file.where, "parse", reason)
        image.seek(page or 0)
        check_bytes((image.height, image.width), 4, file.where)
        array = _levels(ImageOps.exif_transpose(image))
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
