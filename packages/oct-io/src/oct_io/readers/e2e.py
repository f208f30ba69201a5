"""Heidelberg Spectralis databases of one patient, .e2e, parsed by eyepy."""

import contextlib
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import ScanError, refusing
from oct_io.readers.extras import needed, quiet
from oct_io.readers.heidelberg import (
    GREY_LEVELS_ABOVE,
    INVALID,
    PATTERNS,
    display_levels,
    spectralis_header,
)
from oct_io.scan.file import ScanFile
from oct_io.scan.outcome import check_bytes, complete
from oct_io.volume import OctVolume

E2E_HEAD_BYTES, E2E_CHUNK_BYTES, E2E_FOLDER_BYTES, E2E_ITEM_BYTES = 36 + 52, 52, 44, 60
E2E_MAX_FOLDERS = 1 << 20  # files have 512 in a chunk


def read_e2e(file: ScanFile) -> OctVolume:
    """Read the one raster of an .e2e file, or the series whose number `file.member` names.

    The format has the position of each B-scan in degrees and no size of a pixel that anyone has
    confirmed, so the caller or a sidecar must give the spacing.

    Raises:
        ScanError: with its stage.
    """
    where = file.where
    file = replace(file, spacing=file.spacing or file.fallback)
    reader = needed("eyepy.io.he.e2e_reader", "vendors", where)
    content = file.content()
    check_e2e(content, where)
    with (
        _on_disk(content, ".e2e") as path,
        quiet("eyepy"),
        refusing(where, "parse", "eyepy cannot read this .e2e file"),
        reader.HeE2eReader(path) as opened,
    ):
        series = _choose_series(opened.series, file)
        return _e2e_volume(series, file)


def check_e2e(content: bytes, where: str) -> None:
    """Refuse a chain of chunks that leads backwards, which eyepy would follow for ever.

    Raises:
        ScanError: stage `parse`.
    """
    if content[:3] not in (b"CMD", b"MDb"):
        raise ScanError(where, "parse", "not a Heidelberg .e2e file: no mark at its start")
    at = E2E_HEAD_BYTES
    while at + E2E_CHUNK_BYTES <= len(content):
        folders = int.from_bytes(content[at + 36 : at + 40], "little")
        last = at + E2E_CHUNK_BYTES + (folders - 1) * E2E_FOLDER_BYTES
        if not 0 < folders <= E2E_MAX_FOLDERS or last + E2E_FOLDER_BYTES > len(content):
            return  # eyepy ends here as well
        start, size = struct.unpack_from("<II", content, last + 4)
        if start + size + E2E_ITEM_BYTES <= at:
            raise ScanError(where, "parse", "its chunks lead in a circle")
        at = start + size + E2E_ITEM_BYTES


def _choose_series(series: Sequence[Any], file: ScanFile) -> Any:
    """The series that was asked for, or the only one with more than one B-scan."""
    if file.member is not None:
        found = [one for one in series if str(one.id) == file.member]
    else:
        found = [one for one in series if one.n_bscans > 1] or list(series)
    if len(found) != 1:
        numbers = ", ".join(str(one.id) for one in series[:20])
        reason = f"{len(found)} series fit; name one of {numbers or 'none'} with member="
        raise ScanError(file.where, "parse", reason)
    return found[0]


def _e2e_volume(series: Any, file: ScanFile) -> OctVolume:
    """Stack what eyepy finds slice by slice; its own stacking needs metadata that may lack."""
    slices = [series.slices[number] for number in sorted(series.slices)]
    notes = [one.get_meta() for one in slices]
    first = notes[0]
    sizes = (len(slices), int(first["size_y"]), int(first["size_x"]))
    check_bytes(sizes, 4, file.where)
    if file.spacing is None:
        reason = "an .e2e file has no confirmed pixel size; spacing=Spacing(...) gives it"
        raise ScanError(file.where, "geometry", reason)
    header = spectralis_header(
        file,
        sizes,
        pitch=(file.spacing.row, file.spacing.column),
        lines_mm=[(*one["start_pos"], *one["end_pos"]) for one in notes],
        pattern=PATTERNS.get(int(first["scan_pattern"])),
        distance_mm=None,
        side=_side(series, file.where),
        participant="",
    )
    voxels = np.empty(sizes, dtype=np.uint8)
    for number, one in enumerate(slices):
        raw = np.asarray(one.get_bscan(), dtype=np.float32)
        if raw.shape != sizes[1:]:
            reason = f"B-scan {number + 1} of {sizes[0]} has another size than the first"
            raise ScanError(file.where, "decode", reason)
        voxels[number] = display_levels(np.where(raw > GREY_LEVELS_ABOVE, 0, raw), file.where)
    return complete(
        voxels,
        header,
        file.where,
        patterns=file.patterns,
        layers=_layers(slices, sizes, file.where),
        localizer=_localizer(series, file.where),
    )


def _layers(
    slices: Sequence[Any], sizes: tuple[int, int, int], where: str
) -> dict[str, NDArray[np.float32]]:
    """Surfaces that have a value anywhere, by HEYEX's names."""
    numbers = needed("eyepy.io.he.vol_reader", "vendors", where).SEG_MAPPING
    kind = _types(where).layer_annotation
    found = [
        {folder.data.id: folder.data.data for folder in one.folders.get(kind, [])} for one in slices
    ]
    layers = {}
    for name, number in numbers.items():
        surface = np.full((sizes[0], sizes[2]), np.nan, dtype=np.float32)
        for row, one in zip(surface, found, strict=True):
            if number in one and np.shape(one[number]) == row.shape:
                row[:] = one[number]
        surface[~(np.abs(surface) < INVALID)] = np.nan
        if np.isfinite(surface).any():
            layers[name] = surface
    return layers


def _types(where: str) -> Any:
    """The kinds of folders, as eyepy names them."""
    return needed("eyepy.io.he.e2e_format", "vendors", where).TypesEnum


def _side(series: Any, where: str) -> str:
    folders = series.folders.get(_types(where).laterality) or []
    return str(getattr(folders[0].data.laterality, "name", "")) if folders else ""


def _localizer(series: Any, where: str) -> NDArray[np.uint8] | None:
    folders = series.folders.get(_types(where).image) or []
    image = np.asarray(folders[0].data.data) if folders else np.zeros(0)
    return image.astype(np.uint8) if image.ndim == 2 and image.dtype == np.uint8 else None


@contextlib.contextmanager
def _on_disk(content: bytes, suffix: str) -> Iterator[Path]:
    """The bytes as a file that its owner alone may read; eyepy takes no bytes."""
    with tempfile.TemporaryDirectory(prefix="oct-io-") as folder:
        path = Path(folder) / f"scan{suffix}"
        path.write_bytes(content)
        yield path
