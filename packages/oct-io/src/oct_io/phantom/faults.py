"""Scans that are wrong on purpose, and manifests that are odd, each with what should come of it."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from oct_io.errors import ScanError
from oct_io.phantom.grid import stream

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

EXPECTED = "expected.tsv"
PIXEL_TAG = b"\xe0\x7f\x10\x00"
SEQUENCE_ITEM = b"\xfe\xff\x00\xe0"
ZEROED_BYTES = 4096  # a page or a disk block that never arrived


class Expected(NamedTuple):
    """One line of `expected.tsv`.

    Attributes:
        path: of the scan, as manifest and quarantine have it.
        wrong: name of what is wrong.
        stage: at which a cache refuses the scan; "" if it does not.
        audit: mismatch or count in which an audit shows it; "" if it does not.
        flag: that the index of a cache gives the scan; "" for none.
    """

    path: str
    wrong: str
    stage: str
    audit: str = ""
    flag: str = ""


class Fault(NamedTuple):
    """One way to spoil a file."""

    stage: str
    spoil: Callable[[Path, Path], None]
    """Takes the file, and another one of the same tree."""
    audit: str = ""
    flag: str = ""
    """Given by a cache if the bytes can still be decoded; it is refused at `decode` otherwise."""


def _edit(path: Path, change: Callable[["FileDataset"], None]) -> None:
    from pydicom import dcmread  # half of a second to import

    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)


def _truncate(path: Path, _other: Path) -> None:
    content = path.read_bytes()
    start = content.index(PIXEL_TAG)
    path.write_bytes(content[: start + (len(content) - start) * 2 // 5])


def _zero(path: Path, _other: Path) -> None:
    """Zeros from the middle of a volume on; within one codestream, if it is compressed."""
    from pydicom import dcmread

    dataset = dcmread(path)
    frames, encapsulated = int(dataset.NumberOfFrames), dataset["PixelData"].is_undefined_length
    content = bytearray(path.read_bytes())
    start = content.index(PIXEL_TAG) + 12
    if encapsulated:
        items = [start]  # the offset table, then one item a frame
        while content.startswith(SEQUENCE_ITEM, items[-1]):
            items.append(items[-1] + 8 + _item_length(content, items[-1]))
        middle = items[1 + frames // 2]
        begin, length = middle + 8, _item_length(content, middle)
    else:
        length = (len(content) - start) // frames
        begin = start + frames // 2 * length
    room = length if encapsulated else len(content) - start
    count = min(ZEROED_BYTES, room // 3)
    begin += length // 2 - count // 3
    content[begin : begin + count] = bytes(count)
    path.write_bytes(content)


def _item_length(content: bytearray, item: int) -> int:
    return int.from_bytes(content[item + 4 : item + 8], "little")


def _drop_pixels(path: Path, _other: Path) -> None:
    def drop(dataset: "FileDataset") -> None:
        del dataset.PixelData

    _edit(path, drop)


def _lie_about_frames(path: Path, _other: Path) -> None:
    def lie(dataset: "FileDataset") -> None:
        dataset.NumberOfFrames = int(dataset.NumberOfFrames) + 7

    _edit(path, lie)


def _swap_eyes(path: Path, _other: Path) -> None:
    def swap(dataset: "FileDataset") -> None:
        other = "L" if dataset.ImageLaterality == "R" else "R"
        dataset.ImageLaterality = other
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.FrameAnatomySequence[0].FrameLaterality = other

    _edit(path, swap)


def _change_id(path: Path, _other: Path) -> None:
    def change(dataset: "FileDataset") -> None:
        dataset.PatientID = "9" + str(dataset.PatientID)[1:]  # of a site that does not exist

    _edit(path, change)


def _take_uid(path: Path, other: Path) -> None:
    from pydicom import dcmread

    uid = dcmread(other, stop_before_pixels=True).SOPInstanceUID

    def take(dataset: "FileDataset") -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid

    _edit(path, take)


def _empty(path: Path, _other: Path) -> None:
    path.write_bytes(b"")


FAULTS: dict[str, Fault] = {
    "truncated": Fault("decode", _truncate),
    "zeroed_bytes": Fault("", _zero, flag="lost_bytes"),
    "missing_pixels": Fault("decode", _drop_pixels),
    "lying_frames": Fault("parse", _lie_about_frames),
    "wrong_laterality": Fault("", _swap_eyes, "laterality"),
    "id_mismatch": Fault("content", _change_id, "participant"),
    "duplicate_uid": Fault("", _take_uid, "duplicates"),
    "zero_byte": Fault("parse", _empty),
}
"""By name."""


def spoil_scans(root: Path, paths: Sequence[str], seed: int) -> list[Expected]:
    """Give each fault to one of `paths`, chosen by `seed`, and say to which.

    Args:
        root: what the paths are relative to.
        paths: scans to choose from; those that are refused anyway should not be among them.
        seed: another one, other scans.

    Raises:
        ValueError: fewer scans than twice the number of faults.
    """
    if len(paths) < 2 * len(FAULTS):
        raise ValueError(
            f"phantom_tree.corrupt spoils {len(FAULTS)} scans, of {2 * len(FAULTS)} at least; "
            f"there are {len(paths)}: take more participants"
        )
    order = stream(seed, "faults").permutation(len(paths))
    sound = paths[int(order[-1])]  # not among those that are spoiled
    found = []
    for (name, fault), i in zip(FAULTS.items(), order, strict=False):
        path = paths[int(i)]
        fault.spoil(root / path, root / sound)
        stage, flag = fault.stage, fault.flag
        if flag and not _is_decodable(root / path):
            stage, flag = "decode", ""
        found.append(Expected(path, name, stage, fault.audit, flag))
    return found


def _is_decodable(path: Path) -> bool:
    """Whether a decoder takes the pixel data; some codecs notice lost bytes, others do not."""
    import pydicom  # half of a second, which drawing alone need not wait for

    from oct_io.dicom.header import describe
    from oct_io.dicom.pixels import decode

    header = describe(pydicom.dcmread(path, stop_before_pixels=True), "")
    try:
        decode(path.read_bytes(), header, "")
    except ScanError:
        return False
    return True


Row = tuple[str, dict[str, str]]

ODD_CELLS: dict[str, dict[str, str]] = {
    "spacing_varies": {"pixel_spacing": "Varies by frame"},
    "thickness_not_reported": {"slice_thickness": "Not reported"},
    "reference_nan": {"reference_instance_uid": "NaN", "reference_filepath": "NaN"},
    "reference_none": {"reference_instance_uid": "None", "reference_filepath": "None"},
    "laterality_unknown": {"laterality": "unknown_laterality"},
}
"""Cells that real manifests have, and that must not cost the scan."""

ODD_PATHS: dict[str, tuple[str, str]] = {
    "traversal": ("/../../outside.dcm", "fetch"),
    "hidden_traversal": ("/retinal_oct/../../outside.dcm", "fetch"),
    "other_scheme": ("s3://elsewhere/scan.dcm", "fetch"),
    "backslashes": ("retinal_oct\\structural_oct\\scan.dcm", "fetch"),
    "two_slashes": ("//elsewhere/scan.dcm", "fetch"),
    "no_path": ("", "fetch"),
    "absent_file": ("/retinal_oct/structural_oct/absent.dcm", "fetch"),
    "no_scan": ("/participants.tsv", "parse"),
}
"""Paths of rows that a manifest should not have, and the stage at which they are refused."""

INSIDE = ("absent_file", "no_scan")
"""Those of them that stay below the root, and move with a nested tree."""


def make_odd(rows: list[Row], seed: int) -> list[Expected]:
    """Change `rows` of a manifest in place, and say what should come of each change."""
    found = []
    order = stream(seed, "odd rows").permutation(len(rows))
    for (name, cells), i in zip(ODD_CELLS.items(), np.resize(order, len(ODD_CELLS)), strict=True):
        rows[int(i)][1].update(cells)
        found.append(Expected(rows[int(i)][1]["filepath"].lstrip("/"), name, ""))
    for _, row in rows[::2]:
        row["filepath"] = row["filepath"].lstrip("/")
    key, usual = rows[0]
    for name, (path, stage) in ODD_PATHS.items():
        rows.append((key, usual | {"filepath": path}))
        stated = path.lstrip("/") if name in INSIDE else path
        found.append(Expected(stated, name, stage))
    return found


def write_expected(path: Path, found: Sequence[Expected], prefix: str = "") -> None:
    """Write `found` as tab-separated values; `prefix` leads to a tree that lies deeper."""
    outside = {path for name, (path, _) in ODD_PATHS.items() if name not in INSIDE}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(Expected._fields)
        for line in found:
            moved = line.path if line.path in outside else prefix + line.path
            writer.writerow((moved, *line[1:]))
