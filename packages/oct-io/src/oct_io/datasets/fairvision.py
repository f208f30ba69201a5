"""Harvard FairVision: 30,000 volumes, a third each for AMD, diabetic retinopathy and glaucoma.

Layout as its repository (Harvard-Ophthalmology-AI-Lab/FairVision) and its card on Hugging Face
(harvardairobotics/FairVision) say: DISEASE/PART/data_12345.npz with the volume in `oct_bscans`
(200 x 200 x 200 for glaucoma, 128 x 200 x 200 else), and data_summary_DISEASE.csv beside or below
with filename, the disease, sex, age and other columns. PART is Training, Validation and Test, or
train, val and test. Numbers are unique within a disease; whether 00001 of two diseases is one
person is not said, and they count as two.
"""

import json

from oct_io.catalog.tables import Row, cell
from oct_io.datasets.recipe import UNKNOWN_MM, Found, Item, Recipe, answers
from oct_io.datasets.tree import Tree
from oct_io.records.record import ScanRecord

VOLUME = r"(AMD|DR|Glaucoma)/(Training|Validation|Test|train|val|test)/(data_(\d+))\.npz"
PICTURES = r"(?:AMD|DR|Glaucoma)/[^/]+/slo_[^/]*"
PARTS = {"training": "train", "validation": "val"}
SAID = json.dumps({"axes": ["bscan", "row", "column"], "member": "oct_bscans"}, sort_keys=True)


def _read(tree: Tree) -> Found:
    found, tables = Found(), dict[str, dict[str, Row]]()
    for path, name in tree.match(VOLUME):
        disease, stem = name[1].lower(), name[3]
        if disease not in tables:
            tables[disease] = _summary(tree, disease, found)
        record = ScanRecord(
            path=path,
            participant_id=f"{disease}-{name[4]}",
            sidecar=SAID,
            spacing_mm=UNKNOWN_MM,
        )
        row = answers(tables[disease].get(stem, {}), "filename", "use")
        part = PARTS.get(name[2].lower(), name[2].lower())
        found.items.append(Item(record=record, row=row, part=part))
    list(tree.match(PICTURES))
    list(tree.match(r"(?:AMD|DR|Glaucoma)/ReadMe/data_description[^/]*"))
    return found


def _summary(tree: Tree, disease: str, found: Found) -> dict[str, Row]:
    """Rows of the table of a disease by the name of their archive, without its ending."""
    name = f"data_summary_{disease}.csv"
    path = tree.find(name)
    if path is None:
        found.missing.append(f"{name}, the labels of {disease}")
        return {}
    return {cell(row, "filename").removesuffix(".npz"): row for row in tree.rows(path)}


RECIPE = Recipe(
    name="fairvision",
    title="Harvard FairVision",
    read=_read,
    bscans=False,
    layout="Glaucoma/Training/data_00001.npz and data_summary_glaucoma.csv",
    source="github.com/Harvard-Ophthalmology-AI-Lab/FairVision",
    terms="CC BY-NC-ND 4.0, research alone, never for decisions on patients",
    spacing="not published; volumes were resized to 200 x 200 in a plane",
    split="Training, Validation and Test",
    labels=("glaucoma", "amd", "dr"),
    counts={"scans": 30000},
)
