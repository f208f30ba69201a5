"""What a scan says about itself before its voxels are decoded, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from oct_io.volume import Confidence, Kind, Laterality, Pattern, Spacing, SpacingSource


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanHeader:
    """Metadata of one scan; nothing here names a patient but the two fields left out of its repr.

    Attributes:
        shape: (bscans, rows, columns).
        bits: bits stored per voxel.
        allocated: bits a voxel takes in the file, 8 or 16.
        row_mm: millimetres between voxels along the beam.
        column_mm: millimetres between A-scans.
        spacing: millimetres in array order; None where the distance between B-scans is unknown.
        spacing_source: where that distance comes from.
        pattern: how the B-scans lie.
        pattern_note: what was seen, if not a raster; of a raster, which axes run as in few others.
        order: frame indices from superior to inferior.
        transfer_syntax: UID of the pixel encoding.
        participant_id: PatientID of the file.
        sop_instance_uid: unique name of the file's content.
        spacing_confidence: how far the distance between B-scans can be relied on.
        series_instance_uid: what the files of one volume have in common.
        instance_number: place of the file among them.
        layers: layer boundaries that the file holds, and the share of A-scans that have each; of
            formats that must be decoded to be known.
        kind: what a sidecar says that it shows; None of formats that hold retinas only.
    """

    shape: tuple[int, int, int]
    bits: int
    allocated: int
    row_mm: float
    column_mm: float
    spacing: Spacing | None
    spacing_source: SpacingSource | None
    pattern: Pattern
    pattern_note: str
    order: tuple[int, ...]
    laterality: Laterality
    device: str
    protocol: str
    region: str
    transfer_syntax: str
    participant_id: str = field(default="", repr=False)
    sop_instance_uid: str = field(default="", repr=False)
    spacing_confidence: Confidence = "none"
    series_instance_uid: str = field(default="", repr=False)
    instance_number: int = 0
    layers: Mapping[str, float] = field(default_factory=dict)
    kind: Kind | None = None


def cure_of(kind: Kind | None) -> str:
    """What a rule for retinas adds to its reason where the scan may be something else."""
    if kind != "oct":
        return ""
    return '; if it is no OCT, say so: data.kind=volume, or {"kind": "volume"} in a volume.json'


def text(value: object, limit: int = 64) -> str:
    """A header value as one line of printable text; "" if absent."""
    line = "" if value is None else str(value)
    return "".join(letter for letter in line if letter.isprintable())[:limit].strip()
