"""Which scans a phantom tree holds: whose eye, by which device, in what kind of file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

from oct_io.dicom.encoding import OFFSET_TABLES
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import localizer_uid, sop_instance_uid
from oct_io.phantom.arrangements import ARRANGEMENTS, shown_by
from oct_io.phantom.drawing import Phantom
from oct_io.phantom.grid import stream
from oct_io.phantom.nuisance import pick_devices, scan_nuisance, site_gain_db
from oct_io.phantom.scanners import find_device
from oct_io.phantom.specification import PhantomTree
from oct_io.phantom.tables import Person, manifest_row

FORMAT = 4
"""Grows when equal specs would give other voxels; an older tree is then not taken for a new one."""

MARKS = 2
"""Grows when marks of `ARRANGEMENTS` would be drawn otherwise; trees without any stay the same."""

FIRST_FIELDS = (
    *("participants", "seed", "shape", "extent_mm", "split_fractions", "lesion_prevalence"),
    *("effect", "devices", "devices_per_participant", "manifest_version"),
)
"""Always part of a tree's identity. Later fields are while they differ from their default, so that
a tree of before keeps its marker and its UIDs."""


@dataclass(frozen=True, slots=True)
class Scan:
    """One file of the tree; small enough to be sent to a process."""

    person: Person
    spec: Phantom
    uid_seed: str
    style: FileStyle
    shared_groups: bool
    annotated: bool = False
    dated: bool = False  # whether the manifest tells the visit

    @property
    def path(self) -> str:
        """Below the root, as AI-READI names its files."""
        spec, key = self.spec, self.person.id
        uid = sop_instance_uid(self.uid_seed)
        name = f"{key}_{spec.protocol}_{spec.laterality.lower()}_{uid}.dcm"
        return f"retinal_oct/structural_oct/{find_device(spec.device).name}/{key}/{name}"

    @property
    def row(self) -> dict[str, str]:
        """Its line of the manifest, without the id."""
        grid = self.spec.grid
        row = manifest_row(
            device=find_device(self.spec.device).name,
            laterality=self.spec.laterality,
            region=self.spec.region,
            shape=grid.shape,
            spacing=grid.spacing if self.spec.pattern == "raster" else None,
            uids=(sop_instance_uid(self.uid_seed), localizer_uid(self.uid_seed)),
            path=self.path,
        )
        if self.dated:
            row["visit"] = str(self.spec.acquisition + 1)
        if self.annotated:
            row |= {"mask": f"/{self.mask_path}", "layers": f"/{self.layers_path}"}
        return row

    @property
    def mask_path(self) -> str:
        """Its segmentation, below the root."""
        return self.path.removesuffix(".dcm") + "_mask.dcm"

    @property
    def layers_path(self) -> str:
        """Its boundaries, below the root."""
        return self.path.removesuffix(".dcm") + "_layers.npz"


def identify(tree: PhantomTree) -> dict[str, object]:
    """All that changes what is written: everything but the number of processes."""
    usual = type(tree)()
    spec = {
        name: value
        for name, value in asdict(tree).items()
        if name in FIRST_FIELDS or (name != "jobs" and value != getattr(usual, name))
    }
    marks = {"marks": MARKS} if set(tree.arrangements) & ARRANGEMENTS.keys() else {}
    return {"format": FORMAT, **marks, "tree": spec}


def list_scans(tree: PhantomTree, people: Sequence[Person], drawn: Sequence[Person]) -> list[Scan]:
    """All scans of a tree, in the order of its manifest.

    Args:
        tree: what to write.
        people: participants with the labels that the tables give them.
        drawn: the same with what their eyes show.
    """
    tree_key = json.dumps(identify(tree))
    strength, label = tree.device_confounding, tree.confounded
    first = pick_devices(people, len(tree.devices), label, strength, tree.seed)
    scans: list[Scan] = []
    for index, person in enumerate(drawn):
        for turn in range(tree.devices_per_participant):
            device = tree.devices[(first[index] + turn) % len(tree.devices)]
            for eye, visit in product(tree.eyes, range(tree.visits)):
                spec = _phantom(tree, person, device, eye, visit)
                style, shared = _style(tree, spec, len(scans))
                key = f"{tree_key} {person.id} {device} {eye}{_later(visit)}"
                several = tree.visits > 1
                scans.append(Scan(person, spec, key, style, shared, tree.annotations, several))
    return scans


def _later(visit: int) -> str:
    """What tells a visit apart in keys: nothing of the first, as before there were more."""
    return f" visit {visit}" if visit else ""


def _phantom(
    tree: PhantomTree, person: Person, device: str, laterality: str, visit: int
) -> Phantom:
    scan = f"{device} {laterality}{_later(visit)}"
    gain_sd, loss_sd = tree.gain_sd_db, tree.roll_off_sd_db_per_mm
    return Phantom(
        device=device,
        laterality=laterality,
        fluid=person.fluid,
        drusen=person.drusen,
        thin=person.thin,
        study_group=person.study_group,
        effect=tree.effect,
        shape=tree.shape,
        extent_mm=tree.extent_mm,
        scale=tree.scale,
        gain_db=site_gain_db(person, tree.site_gain_db)
        + scan_nuisance(person.seed, scan, gain_sd, "gain"),
        roll_off_db_per_mm=scan_nuisance(person.seed, scan, loss_sd, "roll-off"),
        arranged=dict(shown_by(person, tree.arrangements, laterality, visit)),
        acquisition=visit,
        bits=tree.bits,
        participant_id=person.id,
    )


def _style(tree: PhantomTree, spec: Phantom, number: int) -> tuple[FileStyle, bool]:
    """Codec, offset table and habits of the scan of that number; all take turns."""
    codec = tree.codecs[number % len(tree.codecs)]
    table = OFFSET_TABLES[number // len(tree.codecs) % len(OFFSET_TABLES)]
    style = FileStyle(codec=codec, table=table, circles=spec.circles)
    if spec.pattern == "radial":
        style.thickness = False
        return style, False
    turn = number // 2 % 6 if tree.odd_files else 0  # both eyes of a pair alike
    if turn == 1:
        style.positions = False
    elif turn == 2:
        order = stream(tree.seed, "frame order", number).permutation(spec.grid.shape[0])
        style.frame_order = tuple(map(int, order))
    elif turn == 3:
        style.positions = style.locations = False
    elif turn == 4:
        style.thickness = style.locations = False
    return style, turn != 5
