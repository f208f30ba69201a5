"""Two sets of Duke University as MATLAB files: diabetic oedema (Chiu) and AMD (Farsiu).

Layouts as loaders on GitHub have them. Chiu 2015: 2015_BOE_Chiu/Subject_01.mat to Subject_10.mat
with `images`, 496 x 768 x 61, of a Spectralis. Farsiu 2014:
Farsiu_Ophthalmology_2013_AMD_Subject_1001.mat, or Control, with `images`, 512 x 1,000 x 100, of a
Bioptigen, over 6.7 x 6.7 mm. Neither file says how deep a row is, and what others write of it could
not be checked, so that no spacing is taken. Fluid and layers in the files are not read.
"""

import json
from collections.abc import Mapping

from oct_io.datasets.recipe import UNKNOWN_MM, Found, Item, Recipe
from oct_io.datasets.tree import Tree
from oct_io.records.record import ScanRecord

AXES = ["row", "column", "bscan"]
DME = r"(Subject_\d+)\.mat"
AMD = r"Farsiu_Ophthalmology_2013_(AMD|Control)_Subject_(\d+)\.mat"


def _said(**more: object) -> str:
    said = {"axes": AXES, "member": "images", "region": "Macula", "value_range": [0, 255]}
    return json.dumps(said | more, sort_keys=True)


def _read_dme(tree: Tree) -> Found:
    found = Found()
    for path, name in tree.match(DME):
        record = ScanRecord(
            path=path,
            participant_id=name[1],
            sidecar=_said(device="Spectralis"),
            spacing_mm=UNKNOWN_MM,
            region="Macula",
        )
        found.items.append(Item(record=record))
    return found


def _read_amd(tree: Tree) -> Found:
    found, counts = Found(), dict[str, int]()
    for path, name in tree.match(AMD):
        record = ScanRecord(
            path=path,
            participant_id=f"{name[1]}-{name[2]}",
            sidecar=_said(device="Bioptigen"),
            spacing_mm=UNKNOWN_MM,
            region="Macula",
        )
        counts[name[1]] = counts.get(name[1], 0) + 1
        found.items.append(Item(record=record, row={"amd": "1" if name[1] == "AMD" else "0"}))
    found.missing += _short(counts, {"AMD": 269, "Control": 115}) if counts else []
    return found


def _short(counts: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    return [
        f"{number - counts.get(group, 0)} of {number} files of the group {group}"
        for group, number in published.items()
        if counts.get(group, 0) < number
    ]


DME_RECIPE = Recipe(
    name="duke_dme",
    title="Duke DME (Chiu 2015)",
    read=_read_dme,
    bscans=False,
    layout="2015_BOE_Chiu/Subject_01.mat",
    source="people.duke.edu/~sf59/Chiu_BOE_2014_dataset.htm",
    terms="no licence is known to us: read its page, and cite the paper",
    spacing="none in the files",
    counts={"scans": 10, "participants": 10},
)
AMD_RECIPE = Recipe(
    name="duke_amd",
    title="Duke AMD (Farsiu 2014)",
    read=_read_amd,
    bscans=False,
    layout="Farsiu_Ophthalmology_2013_AMD_Subject_1001.mat",
    source="people.duke.edu/~sf59/RPEDC_Ophth_2013_dataset.htm",
    terms="no licence is known to us: read its page, and cite the paper",
    spacing="none in the files",
    labels=("amd",),
    counts={"scans": 384, "participants": 384},
)
