"""Ophthalmic Tomography DICOM (PS3.3 A.52) to an `OctVolume`."""

import numpy as np

from oct_io.errors import ScanError
from oct_io.geometry import implausible
from oct_io.readers.header import ScanHeader, describe, parse_dataset
from oct_io.readers.pixels import Voxels, check_size, decode
from oct_io.volume import OctVolume


def read_dicom(content: bytes, where: str) -> OctVolume:
    """Read a whole file that lies in memory; frames come sorted from superior to inferior.

    Depth is never flipped: row 0 is the end of the A-scan nearest to the scanner, as stored.

    Raises:
        ScanError: the cheapest checks come first: parse, size, geometry, decode, content.
    """
    dataset, _ = parse_dataset(content, where)
    assert dataset is not None  # only a patient parse gives None
    header = describe(dataset, where)
    check_size(header, where)
    check_geometry(header, where)
    voxels = decode(content, header, where)
    _check_content(voxels, where)
    assert header.spacing is not None
    assert header.spacing_source is not None
    order = np.asarray(header.order)
    if (np.diff(order) != 1).any():
        voxels = voxels[order]
    return OctVolume(
        voxels=voxels,
        spacing=header.spacing,
        spacing_source=header.spacing_source,
        laterality=header.laterality,
        device=header.device,
        protocol=header.protocol,
        region=header.region,
        pattern=header.pattern,
        participant_id=header.participant_id,
    )


def check_geometry(header: ScanHeader, where: str) -> None:
    """Refuse what is not a raster, or has no believable distance between its B-scans.

    Raises:
        ScanError: stage `geometry`.
    """
    if header.pattern_note:
        named = "" if header.pattern == "unknown" else f"{header.pattern} scan: "
        raise ScanError(where, "geometry", f"{named}{header.pattern_note}")
    if header.spacing is None:
        reason = (
            "nothing tells the distance between B-scans: no frame positions, localizer lines, "
            "SpacingBetweenSlices or SliceThickness, and no known protocol"
        )
        raise ScanError(where, "geometry", reason)
    wrong = implausible(*header.spacing)
    if wrong:
        raise ScanError(where, "geometry", wrong)


def _check_content(voxels: Voxels, where: str) -> None:
    if (voxels == voxels[:, :1, :1]).all():
        reason = f"every one of the {len(voxels)} frames is of one grey level: no image"
        raise ScanError(where, "content", reason)
