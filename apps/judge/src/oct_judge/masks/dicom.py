"""Masks of a window as DICOM Segmentations of the scans that they were cut from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import oct_io
from oct_io.catalog.manifest import list_scans
from oct_io.dicom.header import read_dataset
from oct_io.dicom.segmentation_writer import write_segmentation
from oct_io.errors import ScanError
from oct_io.readers.registry import DICOM, suffix_of
from oct_io.space.layers import put_back
from oct_io.storage.files import join
from oct_io.volume import UNLABELLED, Spacing
from oct_launch import Stages

ALGORITHM = "oct-vjepa"


def write_dicom_masks(
    volumes: oct_io.CachedVolumes,
    names: Sequence[str],
    config: oct_io.SourceConfig,
    files: Mapping[int, Path],
    stages: Stages,
) -> list[Path]:
    """Write KEY.dcm beside each mask whose scan is a DICOM file of its own; returns them.

    Voxels that the window does not reach are background: the standard has no word for what nobody
    looked at. Scans of other formats are left out, and the number of them is said.

    Args:
        volumes: that were cut from the scans.
        names: of the classes from 0.
        config: where the scans lie.
        files: row to the file of its mask, as `write_masks` returns them.
        stages: says what is done.
    """
    if config.bscans is not None:
        stages.say("segment.dicom: single images are no DICOM files; none is written")
        return []
    if config.flatten:
        stages.say("segment.dicom: masks of flattened scans are not put back; none is written")
        return []
    listing = list_scans(config.root, manifest=config.manifest or None, jobs=config.jobs)
    paths = {record.key: record.path for record in listing.records if not record.member}
    written, others = [], 0
    for number, (row, file) in enumerate(sorted(files.items())):
        stages("writing DICOM masks", number, len(files))
        entry = volumes.entries[row]
        path = paths.get(entry.key, "")
        if suffix_of(path) not in DICOM:
            others += 1
            continue
        with np.load(file) as kept:
            mask = kept["mask"]
        whole = put_back(
            mask,
            entry.source_shape,
            spacing=Spacing(*entry.source_spacing),
            window_spacing=Spacing(*entry.spacing),
            origin_mm=entry.origin_mm,
            mirrored=entry.mirrored,
        )
        # What lies above the first boundary is where the beam came from, and no structure.
        whole = np.where(whole == UNLABELLED, 0, whole).astype(np.uint8)
        try:
            header, _ = read_dataset(join(config.root, path))
            write_segmentation(file.with_suffix(".dcm"), whole, names, header, algorithm=ALGORITHM)
        except (ScanError, ValueError) as error:
            stages.say(f"segment.dicom: scan {entry.key}: {error}")
            others += 1
            continue
        written.append(file.with_suffix(".dcm"))
    stages("writing DICOM masks", len(files), len(files))
    if others:
        stages.say(f"segment.dicom: {others} of {len(files)} scans have no DICOM file of their own")
    return written
