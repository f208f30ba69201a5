"""What JSON files say of scans whose format does not: of one scan, or of all scans of a folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from oct_io.errors import ScanError
from oct_io.scan.file import ScanFile
from oct_io.scan.header import text
from oct_io.scan.protocols import protocol_token, stated_device
from oct_io.volume import KINDS, Kind, Laterality, Pattern, Spacing

AXES = ("bscan", "row", "column")
FOLDER_SIDECAR = "volume.json"
FIELDS = {
    "spacing_mm": list,
    "axes": list,
    "laterality": str,
    "device": str,
    "protocol": str,
    "region": str,
    "pattern": str,
    "participant_id": str,
    "participant_from": str,
    "member": str,
    "value_range": list,
    "mask_classes": list,
    "kind": str,
}
WHOSE = ("participant_id", "participant_from")  # one of them, said nearer, replaces the other
EXAMPLE = '{"spacing_mm": [0.047, 0.0026, 0.0117], "laterality": "R"}'
SIDES: dict[str, Laterality] = {"R": "R", "OD": "R", "L": "L", "OS": "L"}
PATTERNS: tuple[Pattern, ...] = ("raster", "radial", "circle", "line", "unknown")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What JSON files say of a scan; every field may be absent.

    Attributes:
        spacing: `spacing_mm`, millimetres (between B-scans, along depth, between A-scans).
        axes: what the axes of the array are, in its order; "-bscan" counts from inferior up, "-row"
            from the far end of the A-scan, "-column" likewise backwards.
        laterality: "R", "L", "OD" or "OS".
        device: name of the scanner.
        protocol: name of the scan protocol.
        region: anatomic region.
        pattern: how the B-scans lie.
        participant_id: whose eye; said, or taken from where `participant_from` says.
        member: which of several volumes in one file.
        value_range: (black, white) of an array of floats.
        mask_classes: names of the labels 0, 1, ... of masks; the first one is the background.
        kind: "volume" of what is no OCT.
    """

    spacing: Spacing | None = None
    axes: tuple[str, ...] | None = None
    laterality: Laterality = "unknown"
    device: str = "unknown"
    protocol: str = "unknown"
    region: str = "unknown"
    pattern: Pattern = "raster"
    participant_id: str = ""
    member: str | None = None
    value_range: tuple[float, float] | None = None
    mask_classes: tuple[str, ...] = ()
    kind: Kind = "oct"


def sidecar_name(file: ScanFile) -> str:
    """`scan.json` beside `scan.npy` or `scan.nii.gz`, as BIDS has it."""
    return f"{_stem(file)}.json"


def read_sidecar(file: ScanFile, name: str) -> Sidecar:
    """What is said of `file`: by the sidecar called `name`, and by those of its folders.

    The nearest wins, field by field: first the scan's own, beside it or in the folder that it is,
    then `file.sidecar`, which the caller merged from the folders above; without that, the
    `volume.json` beside the scan is asked for.

    Raises:
        ScanError: stage `parse`, for a sidecar that cannot be used.
    """
    own = file.inside(name) if name == FOLDER_SIDECAR else file.beside(name)
    if file.sidecar is None:
        above = _read_fields(file.beside(FOLDER_SIDECAR))
    else:
        above = check_fields(file.sidecar, file.where)
    fields = merge_fields(above, _read_fields(own))
    place = fields.get("participant_from")
    if place is not None and "participant_id" not in fields:
        owner = _stem(file) if place == "file" else PurePosixPath(file.beside("").where).name
        fields = merge_fields(fields, {"participant_id": owner})
    return _sidecar(fields, own.where)


def parse_fields(content: str, where: str) -> dict[str, Any]:
    """The fields of a sidecar's text, each of its kind.

    Raises:
        ScanError: stage `parse`: not a JSON object, an unknown field, or a value of another kind.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise ScanError(where, "parse", "the sidecar is not JSON") from None
    if not isinstance(fields, dict):
        raise ScanError(where, "parse", "the sidecar must be a JSON object")
    return check_fields(fields, where)


def check_fields(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`fields` as they are, if a sidecar may have them.

    Raises:
        ScanError: stage `parse`.
    """
    for name, value in fields.items():
        if name not in FIELDS:
            reason = f"unknown field '{text(name)}'; the sidecar has {', '.join(FIELDS)}"
            raise ScanError(where, "parse", reason)
        if not isinstance(value, FIELDS[name]):
            kind = "a list" if FIELDS[name] is list else "a text"
            raise ScanError(where, "parse", f"{name} must be {kind}")
    _sidecar(fields, where)
    return dict(fields)


def merge_fields(above: Mapping[str, Any], nearer: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of two sidecars; what the nearer one says stands."""
    whose = any(name in nearer for name in WHOSE)
    kept = {name: one for name, one in above.items() if not (whose and name in WHOSE)}
    return kept | dict(nearer)


def _sidecar(fields: Mapping[str, Any], where: str) -> Sidecar:
    said: dict[str, Any] = {key: text(fields[key]) for key in ("region",) if key in fields}
    if "spacing_mm" in fields:
        said["spacing"] = Spacing(*_numbers(fields["spacing_mm"], 3, "spacing_mm", where))
    if "value_range" in fields:
        low, high = _numbers(fields["value_range"], 2, "value_range", where)
        said["value_range"] = (low, high)
        if not low < high:
            reason = "value_range must be [black, white] with black below white"
            raise ScanError(where, "parse", reason)
    if "axes" in fields:
        said["axes"] = tuple(map(str, fields["axes"]))
        if sorted(axis.removeprefix("-") for axis in said["axes"]) != sorted(AXES):
            reason = f"axes must list {', '.join(AXES)}, each once, '-' for backwards"
            raise ScanError(where, "parse", reason)
    _check_words(fields, where)
    return Sidecar(
        laterality=SIDES[fields["laterality"]] if "laterality" in fields else "unknown",
        device=stated_device(fields.get("device", "")),
        protocol=protocol_token(fields.get("protocol", "")),
        pattern=fields.get("pattern", "raster"),
        participant_id=text(fields.get("participant_id", "")),
        member=fields.get("member"),
        mask_classes=tuple(text(name) for name in fields.get("mask_classes", ())),
        kind=fields.get("kind", "oct"),
        **said,
    )


def _check_words(fields: Mapping[str, Any], where: str) -> None:
    if fields.get("laterality", "R") not in SIDES:
        raise ScanError(where, "parse", "laterality must be R, L, OD or OS")
    if fields.get("pattern", "raster") not in PATTERNS:
        raise ScanError(where, "parse", f"pattern must be one of {', '.join(PATTERNS)}")
    if fields.get("kind", "oct") not in KINDS:
        raise ScanError(where, "parse", f"kind must be {' or '.join(KINDS)}")
    if fields.get("participant_from", "file") not in ("file", "folder"):
        reason = "participant_from must be file or folder, whose name is the participant"
        raise ScanError(where, "parse", reason)


def _numbers(values: Sequence[object], count: int, name: str, where: str) -> list[float]:
    try:
        good = [float(one) for one in values if isinstance(one, (int, float))]
    except OverflowError:  # whole numbers of JSON have no limit
        good = []
    if len(good) != count or len(values) != count or not np.isfinite(good).all():
        raise ScanError(where, "parse", f"{name} must be {count} numbers")
    return good


def _read_fields(file: ScanFile) -> dict[str, Any]:
    """Fields of the sidecar at `file`; none if it is not there."""
    content = file.text()
    return {} if content is None else parse_fields(content, file.where)


def _stem(file: ScanFile) -> str:
    name = PurePosixPath(file.name)
    return PurePosixPath(name.stem).stem if name.suffix.lower() == ".gz" else name.stem
