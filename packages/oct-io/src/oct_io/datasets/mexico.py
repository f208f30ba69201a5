"""Mexican B-scans of diabetic macular oedema: one table, one image of an eye a visit.

Layout as in the repository Traslational-Visual-Health-Laboratory/OCT-AND-EYE-FUNDUS-DATASET, on
whose files this recipe was run: OCT/OCT*/NAME.jpg and OCT.csv, whose Name is patient, eye (OD or
OI) and numbers, and whose DR is 0, NPDR, PDR, or "-" where nobody graded it.
"""

from oct_io.catalog.tables import Row
from oct_io.datasets.recipe import Found, Item, Recipe, bscan_record
from oct_io.datasets.tree import Tree
from oct_io.volume import Laterality

IMAGE = r"OCT\d*/((\d+)_(O[DI])_[^/]*)\.jpe?g"
SIDES: dict[str, Laterality] = {"OD": "R", "OI": "L"}
TABLE = "OCT.csv"


def _read(tree: Tree) -> Found:
    found, rows = Found(), dict[str, Row]()
    if table := tree.find(TABLE):
        rows = {row.get("Name", ""): row for row in tree.rows(table)}
    else:
        found.missing.append(f"{TABLE}, the labels: clone the repository again")
    unlisted = 0
    for path, name in tree.match(IMAGE):
        record = bscan_record(path, name[2], laterality=SIDES[name[3]], region="Macula")
        unlisted += bool(rows) and name[1] not in rows
        found.items.append(Item(record=record, row=_labels(rows.get(name[1], {}))))
    if unlisted:
        found.missing.append(f"labels of {unlisted:,} images, which {TABLE} does not list")
    tree.find("OCT.txt")
    return found


def _labels(row: Row) -> Row:
    grade = row.get("DR", "").replace("-", "")
    known = {"": "", "0": "0"}.get(grade, "1")
    return {"dme": row.get("DME", ""), "dr": grade, "any_dr": known}


RECIPE = Recipe(
    name="mexico_dme",
    title="Mexican B-scans of diabetic macular oedema",
    read=_read,
    bscans=True,
    layout="OCT/OCT1/1222_OD_o_2.jpg and OCT.csv",
    source="github.com/Traslational-Visual-Health-Laboratory/OCT-AND-EYE-FUNDUS-DATASET",
    terms="none stated; the authors ask to cite Hughes Cano, Olivares Pinto and Thebault",
    spacing="not published; several devices",
    labels=("dme", "dr", "any_dr"),
    counts={"scans": 1113, "participants": 831},
    verified="read whole from the published files",
    sha256="0a92befa02c87859f225a5707bd3040ad092b2c344a75e9965a90296258adf28",
)
