"""Scanners' own formats with a sidecar: it says what the file leaves open, and nothing more."""

from collections.abc import Callable
from dataclasses import replace

from oct_io.readers.sidecar import read_sidecar, sidecar_name
from oct_io.scan.file import ScanFile
from oct_io.volume import OctVolume


def read_described(reader: Callable[[ScanFile], OctVolume], file: ScanFile) -> OctVolume:
    """Read `file` with `reader`; where the file says nothing, its sidecars may.

    Of them count the size of a voxel where the file has none, `member`, and the names of eye,
    device, protocol, region and participant where the file leaves them open.

    Raises:
        ScanError: as `reader`; stage `parse` for a sidecar that cannot be used.
    """
    said = read_sidecar(file, sidecar_name(file))
    member = file.member if file.member is not None else said.member
    volume = reader(replace(file, member=member, fallback=said.spacing))
    return replace(
        volume,
        laterality=said.laterality if volume.laterality == "unknown" else volume.laterality,
        device=_known(volume.device, said.device),
        protocol=_known(volume.protocol, said.protocol),
        region=_known(volume.region, said.region),
        participant_id=volume.participant_id or said.participant_id,
    )


def _known(found: str, said: str) -> str:
    return said if found == "unknown" else found
