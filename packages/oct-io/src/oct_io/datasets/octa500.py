"""OCTA-500: structural OCT volumes of 500 eyes, 6 x 6 and 3 x 3 mm, with a disease each.

Layout as its authors' own loader (chaosallen/IPN_tensorflow) and others on GitHub have it:
OCTA_6mm/OCT/ID/1.bmp to 400.bmp, OCTA_3mm/OCT/ID/1.bmp to 304.bmp, and beside OCT a table Text
labels.xlsx with ID and Disease. One whole volume of it (400 images of 640 x 400) was read here, no
table. The field is 6 x 6 or 3 x 3 mm and 2 mm deep; the split is the one of its authors' papers on
vessels: 10001 to 10180, 10181 to 10200, 10201 to 10300, and 10301 to 10440, 10441 to 10450, 10451
to 10500.
"""

import json

from oct_io.catalog.tables import Row, cell, normal_id
from oct_io.datasets.recipe import Found, Item, Recipe, answers
from oct_io.datasets.tree import Tree
from oct_io.records.record import ScanRecord
from oct_io.volume import Laterality

IMAGE = r"OCTA_([36])mm/OCT/(\d{5})/\d+\.(?:bmp|png)"
TABLE = r"OCTA_[36]mm/Text labels\.(?:xlsx|csv)"
PASSED_OVER = (r"OCTA_[36]mm/(?:OCTA|Projection Maps)/.*", r"Label/.*")
BSCANS, ROWS = {"6": 400, "3": 304}, 640
LAST = ((10180, "train"), (10200, "val"), (10300, "test"))
LAST_3MM = ((10440, "train"), (10450, "val"), (10500, "test"))
DEEP_MM = 2.0
SIDES: dict[str, Laterality] = {"OD": "R", "OS": "L"}


def _read(tree: Tree) -> Found:
    found, rows = Found(), dict[str, Row]()
    for path, _ in tree.match(TABLE):
        rows |= {normal_id(cell(row, "ID")): row for row in tree.rows(path)}
    volumes: dict[str, tuple[str, str, int]] = {}
    for path, name in tree.match(IMAGE):
        folder = path.rpartition("/")[0]
        count = volumes.get(folder, ("", "", 0))[2]
        volumes[folder] = name[1], name[2], count + 1
    short = 0
    for folder, (field, number, count) in volumes.items():
        short += count < BSCANS[field]
        row = answers(rows.get(number, {}), "ID")
        record = ScanRecord(
            path=folder,
            participant_id=number,
            laterality=next((SIDES[one] for one in row.values() if one in SIDES), "unknown"),
            region="Macula",
            sidecar=_said(field),
        )
        found.items.append(Item(record=record, row=row, part=_part(int(number))))
    if short:
        found.missing.append(f"B-scans of {short:,} volumes, which have fewer than 400 or 304")
    if volumes and not rows:
        found.missing.append("Text labels.xlsx of OCTA_6mm and OCTA_3mm, the diseases")
    for pattern in PASSED_OVER:
        list(tree.match(pattern))
    return found


def _said(field: str) -> str:
    """Sidecar of a volume: millimetres of the field over the number of voxels."""
    across = int(field) / BSCANS[field]
    said = {"spacing_mm": [across, DEEP_MM / ROWS, across], "device": "optovue_rtvue_xr"}
    return json.dumps(said | {"region": "Macula"}, sort_keys=True)


def _part(number: int) -> str:
    return next((part for last, part in (*LAST, *LAST_3MM) if number <= last), "")


RECIPE = Recipe(
    name="octa500",
    title="OCTA-500",
    read=_read,
    bscans=False,
    layout="OCTA_6mm/OCT/10001/1.bmp and OCTA_6mm/Text labels.xlsx",
    source="ieee-dataport.org/open-access/octa-500",
    terms="as IEEE DataPort states (an account is needed); its authors ask to be cited",
    spacing="6 x 6 x 2 mm in 400 x 400 x 640 voxels, 3 x 3 x 2 mm in 304 x 304 x 640",
    split="by number, as in its authors' papers",
    labels=("disease",),
    counts={"scans": 500, "participants": 500},
    verified="one volume of it was read; the tables were not verified on the real files",
)
