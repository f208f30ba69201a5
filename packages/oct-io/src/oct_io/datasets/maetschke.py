"""Maetschke's volumes of the optic nerve head: 1,110, of glaucoma or of healthy eyes.

Layout as Microsoft's InnerEye-DeepLearning reads it (create_glaucoma_dataset_csv.py): arrays named
POAG-PATIENT-YYYY-MM-DD-EYE.npy or Normal-...; uint8 of 64 x 128 x 64, the middle axis depth. The
paper (arXiv 1807.04855): a Cirrus, brought to 64 x 64 x 128 voxels; its cube of the disc is 6 x 6
mm wide and 2 mm deep, and the volumes are of 624 people (zenodo.org/records/1481223). Which of the
two equal axes are B-scans is not said; the first is taken, and a front view may be transposed.
"""

import json

from oct_io.datasets.recipe import SECOND_HAND, Found, Item, Recipe
from oct_io.datasets.tree import Tree
from oct_io.records.record import ScanRecord
from oct_io.volume import Laterality

VOLUME = r"(Normal|POAG)-(\d+)-\d{4}-\d{2}-\d{2}-(OD|OS)\.npy"
SIDES: dict[str, Laterality] = {"OD": "R", "OS": "L"}
SAID = {
    "axes": ["bscan", "row", "column"],
    "device": "Cirrus",
    "region": "Optic Disc",
    "spacing_mm": [6 / 64, 2 / 128, 6 / 64],
}


def _read(tree: Tree) -> Found:
    found = Found()
    for path, name in tree.match(VOLUME):
        record = ScanRecord(
            path=path,
            participant_id=name[2],
            laterality=SIDES[name[3]],
            device="zeiss_cirrus",
            region="Optic Disc",
            sidecar=json.dumps(SAID, sort_keys=True),
        )
        row = {"glaucoma": "1" if name[1] == "POAG" else "0"}
        found.items.append(Item(record=record, row=row))
    return found


RECIPE = Recipe(
    name="maetschke",
    title="Maetschke's glaucoma volumes",
    read=_read,
    bscans=False,
    layout="POAG-012345-2010-01-31-OD.npy",
    source="zenodo.org/record/1481223",
    terms=f"CC BY-NC 4.0, not for commercial use, {SECOND_HAND}",
    spacing="6 x 6 x 2 mm, the size of the scanner's cube",
    labels=("glaucoma",),
    counts={"scans": 1110, "participants": 624},
)
