"""The en-face image of a DICOM scan: a file of its own, that the manifest names or that lies by it.

It is looked for where somebody wants to look at it; building a cache does not read it.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from oct_io.errors import ScanError
from oct_io.readers.registry import DICOM, READERS, lacks_suffix, list_instances, suffix_of
from oct_io.records.record import ScanRecord
from oct_io.scan.file import ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.storage.files import join
from oct_io.volume import OctVolume

LOG = logging.getLogger("oct_io")
REFUSED = ("holds Ophthalmic Photography", "holds Wide Field Ophthalmic Photography")
"""How the reader of scans refuses photographs."""
LOOKED_AT = 200
"""Files of a folder whose headers are read to find the photograph that a scan lies on."""


def without_photographs(
    listed: Sequence[tuple[ScanRecord, ScanHeader | ScanError]],
) -> list[tuple[ScanRecord, ScanHeader | ScanError]]:
    """The scans of a tree without the photographs beside them; a line of the log counts these.

    All of them if there is nothing else, so that whoever asks for scans is told what there is.
    """
    scans = [
        one
        for one in listed
        if not (isinstance(one[1], ScanError) and one[1].reason.startswith(REFUSED))
    ]
    if not scans or len(scans) == len(listed):
        return list(listed)
    LOG.warning("passed over, no tomography: %d DICOM photographs", len(listed) - len(scans))
    return scans


def photographs_in(paths: Iterable[str], records: Sequence[ScanRecord]) -> list[str]:
    """Paths of what may be a photograph: DICOM files, by their names, that are no scan."""
    scans = {one.path for one in records}
    return [
        path
        for path in paths
        if path not in scans
        and (path.lower().endswith(DICOM) or lacks_suffix(path.rpartition("/")[2]))
    ]


def add_photograph(
    root: str | Path, record: ScanRecord, volume: OctVolume, photographs: Sequence[str] = ()
) -> OctVolume:
    """The volume with the photograph that its scan names, and where its B-scans lie on it.

    Unchanged if it has a localizer, is no DICOM, names none, or the photograph is not there: it is
    the file that AI-READI's manifest names, else one of the scan's folder. A file with another SOP
    Instance UID than the scan names is not taken.

    Args:
        root: what paths are relative to.
        record: of the scan.
        volume: the scan, as `read_scan` reads it.
        photographs: paths of what may be it, as `photographs_in` finds them.

    Raises:
        ScanError: the scan, or the photograph that it names, cannot be read.
    """
    suffix = suffix_of(record.path)
    known = suffix in READERS and suffix not in DICOM  # of another format
    if volume.localizer is not None or record.bscan or known:
        return volume
    from oct_io.dicom.header import read_dataset  # brings pydicom
    from oct_io.dicom.photograph import photograph_uid, read_photograph
    from oct_io.readers.dicom import find_lines

    instances = list_instances(ScanFile(url=join(root, record.path)))
    place = find_lines(instances) if instances else None
    if place is None or len(place.lines) != len(volume.voxels):
        return volume
    folder = record.path.rpartition("/")[0]
    near = [path for path in photographs if path.rpartition("/")[0] in (folder, record.path)]
    for path in [record.photograph] if record.photograph else near[:LOOKED_AT]:
        file = ScanFile(url=join(root, path))
        try:
            dataset, _ = read_dataset(file.url)
        except ScanError:
            continue  # it is another's, or not there
        if photograph_uid(dataset) == place.uid:
            image = read_photograph(file.content(), file.where)
            return replace(volume, localizer=image, localizer_lines=place.lines)
    return volume
