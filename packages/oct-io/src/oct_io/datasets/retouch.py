"""RETOUCH: volumes of three scanners with fluid marked in three classes, a challenge of 2017.

Layout as its participants' code on GitHub has it: RETOUCH-TrainingSet-VENDOR/TRAIN001/ with oct.mhd
and oct.raw, and reference.mhd and reference.raw, whose labels 1, 2 and 3 are intraretinal fluid,
subretinal fluid and detachment of the pigment epithelium (eyepy's import_retouch); and
RETOUCH-TestSet-VENDOR/TEST001/ without a reference. Millimetres are those of the header. One volume
counts as one participant: nobody says which are of one person.
"""

import json

from oct_io.datasets.recipe import Found, Item, Recipe
from oct_io.datasets.tree import Tree
from oct_io.records.record import ScanRecord

VOLUME = r"(?:RETOUCH-)?(Training|Test)Set-(Cirrus|Spectralis|Topcon)/((?:TRAIN|TEST)\d+)/oct\.mhd"
CLASSES = ["background", "intraretinal_fluid", "subretinal_fluid", "ped"]
DEVICES = {"Cirrus": "zeiss_cirrus", "Spectralis": "heidelberg_spectralis", "Topcon": "topcon"}
PARTS = {"Training": "train", "Test": "test"}


def _read(tree: Tree) -> Found:
    found, unmarked, torn = Found(), 0, 0
    there = set(tree.paths)
    for path, name in tree.match(VOLUME):
        folder = path.rpartition("/")[0]
        mask = f"{folder}/reference.mhd" if f"{folder}/reference.mhd" in there else ""
        torn += f"{folder}/oct.raw" not in there
        unmarked += name[1] == "Training" and not mask
        said = {"device": DEVICES[name[2]], "mask_classes": CLASSES, "region": "Macula"}
        record = ScanRecord(
            path=path,
            participant_id=name[3],
            device=DEVICES[name[2]],
            region="Macula",
            mask=mask,
            sidecar=json.dumps(said, sort_keys=True),
        )
        found.items.append(Item(record=record, part=PARTS[name[1]]))
    if torn:
        found.missing.append(f"oct.raw of {torn:,} volumes, without which they cannot be read")
    if unmarked:
        found.missing.append(f"reference.mhd of {unmarked:,} training volumes, their fluid")
    list(tree.match(r"[^/]+/(?:TRAIN|TEST)\d+/(?:oct|reference)\.(?:mhd|raw)"))
    return found


RECIPE = Recipe(
    name="retouch",
    title="RETOUCH",
    read=_read,
    bscans=False,
    layout="RETOUCH-TrainingSet-Cirrus/TRAIN001/oct.mhd",
    source="retouch.grand-challenge.org, after signing its agreement",
    terms="the challenge's agreement: research, no redistribution",
    spacing="of each header",
    split="TrainingSet and TestSet; fluid is published for the first alone",
    counts={"scans": 112},
)
