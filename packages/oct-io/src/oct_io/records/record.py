"""One scan of a data set before it is opened, and the hashes that stand for it and its owner."""

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any

from oct_io.volume import Laterality

RARE = ("spacing_mm", "member", "sidecar", "mask", "layers", "bscan")
BESIDE = ("photograph",)  # changes nothing of what is cached


@dataclass(frozen=True, kw_only=True, slots=True)
class ScanRecord:
    """One scan of a data set, before it is opened.

    Attributes:
        path: relative to the root that was given, with forward slashes; names the participant in
            AI-READI's layout, so it never goes into caches, logs or reports.
        participant_id: as in the manifest, or in the file's header; "" if unknown.
        device: normalised device name.
        laterality: "R", "L" or "unknown".
        region: anatomic region in the manifest's words.
        protocol: normalised protocol token.
        shape: (bscans, rows, columns) as announced; None if not announced.
        sop_instance_uid: unique name of the file's content, "" if not announced.
        spacing_mm: millimetres in array order that stand above what the scan says, if given.
        member: which of several volumes in one file, if given.
        sidecar: what the folders around it say of it, the JSON of a sidecar; "" if nothing.
        mask: file or folder with the classes of its voxels, relative to the root; "" if none.
        layers: file with its layer boundaries, likewise; "" if none, or if the scan holds them.
        photograph: DICOM file with the en-face image that the scan lies on, likewise, if the
            manifest says it.
        bscan: the file, or the page that `member` numbers, is one B-scan and no volume.
        refused: (stage, reason) if the record is known to be unusable; such a record goes straight
            to the quarantine.
    """

    path: str = field(repr=False)
    participant_id: str = field(default="", repr=False)
    device: str = "unknown"
    laterality: Laterality = "unknown"
    region: str = "unknown"
    protocol: str = "unknown"
    shape: tuple[int, int, int] | None = None
    sop_instance_uid: str = field(default="", repr=False)
    refused: tuple[str, str] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    member: str = ""
    sidecar: str = field(default="", repr=False)
    mask: str = field(default="", repr=False)
    layers: str = field(default="", repr=False)
    photograph: str = field(default="", repr=False)
    bscan: bool = False

    @property
    def participant(self) -> str:
        """Hashed participant, safe to write down."""
        return hash_participant(self.participant_id)

    @property
    def key(self) -> str:
        """Hashed path, and member where one is given; safe to write down."""
        named = f"{self.path}\0{self.member}" if self.member else self.path
        return hashlib.sha256(b"oct-io-scan:" + named.encode()).hexdigest()[:16]

    def to_tree(self) -> dict[str, Any]:
        """All fields for JSON and hashes; without those that few records have, where unset."""
        tree = {name: getattr(self, name) for name in NAMES}  # `asdict` copies, ten times as slowly
        return {name: one for name, one in tree.items() if name not in RARE or one}


NAMES = tuple(one.name for one in fields(ScanRecord) if one.name not in BESIDE)


def hash_participant(participant_id: str) -> str:
    """12 hex characters that stand for a participant in caches, logs and reports."""
    return hashlib.sha256(b"oct-io:" + participant_id.encode()).hexdigest()[:12]


NOBODY = hash_participant("")
"""Stands where a scan does not say whose it is."""
