"""Ophthalmic Tomography DICOM (PS3.3 A.52) to an `OctVolume`."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from oct_io.dicom.deflated import is_deflated, unfold
from oct_io.dicom.header import (
    MAX_HEAD_BYTES,
    NO_PIXELS,
    describe,
    describe_series,
    parse_dataset,
    read_dataset,
)
from oct_io.dicom.photograph import OnPhotograph, photograph_uid, place_on_photograph
from oct_io.dicom.pixels import decode
from oct_io.dicom.segmentation import FrameName
from oct_io.errors import ScanError
from oct_io.scan.file import RASTER, ScanFile
from oct_io.scan.header import ScanHeader
from oct_io.scan.outcome import (
    check_bytes,
    check_frames,
    check_geometry,
    check_size,
    complete,
    narrowed,
)
from oct_io.volume import OctVolume, Pattern, Spacing, Voxels

__all__ = ["check_geometry", "read_dicom", "read_dicom_file", "read_instances"]


def read_dicom_file(file: ScanFile) -> OctVolume:
    """Read one DICOM file that is a whole volume.

    Raises:
        ScanError: as `read_dicom`, or stage `fetch`.
    """
    content = file.content()
    return read_dicom(content, file.where, patterns=file.patterns, spacing=file.spacing)


def read_dicom(
    content: bytes,
    where: str,
    *,
    patterns: Sequence[Pattern] = RASTER,
    spacing: Spacing | None = None,
    frames: Sequence[int] | None = None,
) -> OctVolume:
    """Read a whole file that lies in memory; frames come sorted from superior to inferior.

    Depth is never flipped: row 0 is the end of the A-scan nearest to the scanner, as stored.

    Args:
        content: the file.
        where: its address, for messages; a protocol in its name counts.
        patterns: scan patterns that are admitted.
        spacing: stands above what the file says.
        frames: decode these B-scans only, numbered from superior to inferior.

    Raises:
        ScanError: the cheapest checks come first: parse, size, geometry, decode, content.
    """
    dataset, _ = parse_dataset(content, where)
    assert dataset is not None  # only a patient parse gives None
    header = describe(dataset, where, spacing=spacing)
    check_size(header, where)
    check_geometry(header, where, patterns)
    content = _inflated(content, header, where)
    if frames is None:
        voxels, lost = decode(content, header, where)
        return complete(voxels, header, where, patterns=patterns, lost_bytes=lost)
    chosen = check_frames(frames, header.shape[0])
    voxels, lost = decode(content, header, where, [header.order[frame] for frame in chosen])
    part = narrowed(header, chosen)
    return complete(voxels, part, where, patterns=(part.pattern,), lost_bytes=lost)


def read_instances(files: Sequence[ScanFile]) -> OctVolume:
    """Read one volume whose B-scans lie in several files (PS3.3 C.8.17.16.3), in any order.

    Raises:
        ScanError: as `read_dicom`; stage `parse` also where the files are of several series or
            patients, or one comes twice.
    """
    where = files[0].where
    contents, datasets = [], []
    for file in files:
        content = file.content()
        dataset, _ = parse_dataset(content, file.where)
        assert dataset is not None
        contents.append(content)
        datasets.append(dataset)
    kept = _tomographies(datasets)
    files, contents = [files[i] for i in kept], [contents[i] for i in kept]
    headers, by_number, whole = _join(files, [datasets[i] for i in kept])
    check_size(whole, where)
    check_bytes(whole.shape, whole.allocated // 8, where)
    check_geometry(whole, where, files[0].patterns)
    parts = []
    for i in by_number:
        check_size(headers[i], files[i].where)
        content = _inflated(contents[i], headers[i], files[i].where)
        parts.append(decode(content, headers[i], files[i].where))
    voxels: Voxels = np.concatenate([part.voxels for part in parts])
    lost = next((part.lost_bytes for part in parts if part.lost_bytes), "")
    return complete(voxels, whole, where, patterns=files[0].patterns, lost_bytes=lost)


def peek_instances(files: Sequence[ScanFile]) -> ScanHeader:
    """The header of the volume that `read_instances` reads, from the first bytes of its files.

    Raises:
        ScanError: as `read_instances`.
    """
    datasets = []
    for file in files:
        dataset, ended = read_dataset(file.url, storage_options=file.storage_options)
        if not ended:
            raise ScanError(file.where, "decode", NO_PIXELS)
        datasets.append(dataset)
    kept = _tomographies(datasets)
    return _join([files[i] for i in kept], [datasets[i] for i in kept])[2]


def list_frames(files: Sequence[ScanFile]) -> list[FrameName]:
    """Names of the frames of a volume, in its order, from the first bytes of its files.

    Raises:
        ScanError: as `peek_instances`.
    """
    heads, order = _read_heads(files)
    stored = [
        (header.sop_instance_uid, number)
        for _, header in heads
        for number in range(1, header.shape[0] + 1)
    ]
    return [stored[place] for place in order]


def find_lines(files: Sequence[ScanFile]) -> OnPhotograph | None:
    """Where the B-scans of a volume lie on a photograph, in its order, from its files' first bytes.

    None where they do not say it.

    Raises:
        ScanError: as `peek_instances`.
    """
    heads, order = _read_heads(files)
    places = [place_on_photograph(dataset) for dataset, _ in heads]
    known = [one for one in places if one is not None]
    if len(known) < len(places) or len({one.uid for one in known}) != 1:
        return None
    lines = np.concatenate([one.lines for one in known])
    return OnPhotograph(known[0].uid, lines[list(order)])


def _read_heads(
    files: Sequence[ScanFile],
) -> tuple[list[tuple[Dataset, ScanHeader]], tuple[int, ...]]:
    """What comes before the pixels of a volume's files, by their number; the order of its frames.

    Raises:
        ScanError: as `peek_instances`.
    """
    datasets = [read_dataset(one.url, storage_options=one.storage_options)[0] for one in files]
    kept = _tomographies(datasets)
    files, datasets = [files[i] for i in kept], [datasets[i] for i in kept]
    if len(files) == 1:
        header = describe(datasets[0], files[0].where, spacing=files[0].spacing)
        return [(datasets[0], header)], header.order
    headers, by_number, whole = _join(files, datasets)
    return [(datasets[i], headers[i]) for i in by_number], whole.order


def _tomographies(datasets: Sequence[Dataset]) -> list[int]:
    """Numbers of those that are no photograph lying among them; of all if nothing else is there."""
    everything = range(len(datasets))
    return [i for i in everything if not photograph_uid(datasets[i])] or list(everything)


def _join(
    files: Sequence[ScanFile], datasets: Sequence[Dataset]
) -> tuple[list[ScanHeader], list[int], ScanHeader]:
    """Headers of the files, their order by number, and the header of the whole."""
    where = files[0].where
    pairs = zip(files, datasets, strict=True)
    headers = [describe(one, file.where, spacing=file.spacing) for file, one in pairs]
    _check_series(headers, where)
    by_number = sorted(range(len(files)), key=lambda i: (headers[i].instance_number, i))
    whole = describe_series([datasets[i] for i in by_number], where, spacing=files[0].spacing)
    return headers, by_number, whole


def _check_series(headers: Sequence[ScanHeader], where: str) -> None:
    """Refuse files that do not belong together."""
    for name, what in (("series_instance_uid", "series"), ("participant_id", "patients")):
        values = {getattr(header, name) for header in headers}
        if len(values) > 1:
            reason = f"the {len(headers)} files are of {len(values)} {what}; give those of one"
            raise ScanError(where, "parse", reason)
    if headers[0].series_instance_uid == "":
        raise ScanError(where, "parse", "no SeriesInstanceUID says that these belong together")
    if len({header.allocated for header in headers}) > 1:
        raise ScanError(where, "parse", "its instances have 8 and 16 bits per voxel")
    uids = [header.sop_instance_uid for header in headers]
    if len(set(uids)) < len(uids):
        reason = f"the same instance is there twice: {len(uids)} files, {len(set(uids))} instances"
        raise ScanError(where, "parse", reason)


def _inflated(content: bytes, header: ScanHeader, where: str) -> bytes:
    """Unpack a deflated file, to no more bytes than its header promises."""
    if not is_deflated(content):
        return content
    promised = int(np.prod(header.shape)) * header.allocated // 8 + MAX_HEAD_BYTES
    unpacked, whole = unfold(content, where, promised)
    if not whole:
        more = len(unpacked) >= promised
        reason = "it unpacks to more than its header promises" if more else NO_PIXELS
        raise ScanError(where, "decode", reason)
    return unpacked
