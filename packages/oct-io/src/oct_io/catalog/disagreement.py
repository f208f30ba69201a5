"""Where manifest, folder, file name and header of a scan contradict each other."""

import re
from pathlib import PurePosixPath

from oct_io.catalog.manifest import ScanRecord
from oct_io.catalog.tables import normal_id
from oct_io.scan.header import ScanHeader
from oct_io.scan.protocols import DEVICES, find_protocol

EYE = re.compile(r"_([lr])_(?=[0-9])", re.IGNORECASE)  # AI-READI: ..._oct_l_1.3.6.1....dcm
NUMBERED = re.compile(r"^[0-9]{3,}(?=_)")  # AI-READI: 1001_spectralis_...; a lone 3_ is a counter


def find_disagreement(record: ScanRecord, header: ScanHeader) -> list[str]:
    """What is contradicted, such as "laterality" (of the manifest) or "device of the folder".

    Only what both sides state is compared, always with the header.
    """
    path = PurePosixPath(record.path)
    eye = EYE.search(path.name)
    number = NUMBERED.search(path.name)
    parent = normal_id(path.parent.name)
    owner = normal_id(header.participant_id)
    token = find_protocol(path.name)
    folder = next((part for part in path.parts if part in DEVICES), "unknown")
    pairs = {
        "shape": (_text(record.shape), _text(header.shape)),
        "laterality": (record.laterality, header.laterality),
        "participant": (record.participant_id, owner),
        "device": (record.device, header.device),
        "participant of the folder": (parent if parent.isdigit() else "", owner),
        "device of the folder": (folder, header.device),
        "participant of the file name": (normal_id(number[0]) if number else "", owner),
        "laterality of the file name": (eye[1].upper() if eye else "", header.laterality),
        "device of the file name": (token.device if token else "", header.device),
    }
    return [name for name, both in pairs.items() if both[0] != both[1] and all(map(_stated, both))]


def _text(shape: tuple[int, int, int] | None) -> str:
    return "" if shape is None else " x ".join(map(str, shape))


def _stated(value: str) -> bool:
    return value not in ("", "unknown")
