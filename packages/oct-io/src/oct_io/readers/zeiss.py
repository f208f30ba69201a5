"""Zeiss Cirrus research exports, `*_cube_z.img` and `*_cube_raw.img`: bytes without any header.

Not read through oct-converter: it takes 1024 x 512 as given and reads the axes in another order
than the bytes lie in. Shape and eye stand in the name that the exporter gives to the file.
"""

import re
from dataclasses import replace

import numpy as np

from oct_io.errors import ScanError
from oct_io.readers.plain import plain_header
from oct_io.readers.sidecar import SIDES, Sidecar
from oct_io.scan.file import ScanFile
from oct_io.scan.geometry import FrameGeometry, place_frames
from oct_io.scan.outcome import check_bytes, complete
from oct_io.scan.protocols import find_protocol
from oct_io.volume import OctVolume

ROWS = 1024
DEPTH_MM = 2.0  # of every Cirrus cube
CUBES = {(128, 512): "cirrus_mac_oct", (200, 200): "cirrus_disc_oct"}
"""(B-scans, A-scans) of the two cubes whose 6 x 6 mm are documented."""


def read_img(file: ScanFile) -> OctVolume:
    """Read a cube whose name says its size, such as `Macular Cube 512x128`.

    The export lists each A-scan from the choroid up; rows are put back so that they run into the
    eye. Nothing in the file says which B-scan is superior: they stay in the order of the file.

    Raises:
        ScanError: stage `parse` where name and length do not fit; `geometry` where the cube is not
            one of known width and no spacing is given.
    """
    where = file.where
    named = re.search(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)", file.name)
    if named is None:
        reason = "a .img file has no header, and its name says no size such as 512x128"
        raise ScanError(where, "parse", reason)
    columns, bscans = int(named[1]), int(named[2])
    shape = (bscans, ROWS, columns)
    check_bytes(shape, 1, where)
    content = file.content()
    if len(content) != bscans * ROWS * columns:
        reason = f"{len(content):,} bytes are not {bscans} x {ROWS} x {columns}, as its name says"
        raise ScanError(where, "parse", reason)
    protocol = find_protocol(CUBES.get((bscans, columns), ""))
    if protocol is None or protocol.extent_mm is None:
        file = replace(file, spacing=file.spacing or file.fallback)
    if file.spacing is not None:
        pitch, across = (file.spacing.row, file.spacing.column), file.spacing.bscan * bscans
    elif protocol is not None and protocol.extent_mm is not None:
        pitch, across = (DEPTH_MM / ROWS, protocol.extent_mm[1] / columns), None
    else:
        reason = f"nothing tells the width of a {columns}x{bscans} cube; spacing= gives it"
        raise ScanError(where, "geometry", reason)
    placed = place_frames(
        FrameGeometry(
            frames=bscans,
            columns=columns,
            column_mm=pitch[1],
            field_of_view_mm=across,
            protocol=protocol,
        )
    )
    if file.spacing is not None:
        placed = placed._replace(source="given", confidence="high")
    side = re.search(r"(?<![A-Z])(OD|OS)(?![A-Z])", file.name)
    said = Sidecar(
        laterality=SIDES[side[1]] if side else "unknown",
        device="zeiss_cirrus",
        protocol=protocol.token if protocol else "unknown",
        region=protocol.region if protocol else "unknown",
    )
    voxels = np.frombuffer(content, dtype=np.uint8).reshape(shape)[:, ::-1]
    header = plain_header(shape, 1, placed, pitch, said)
    return complete(np.ascontiguousarray(voxels), header, where, patterns=file.patterns)
