"""OCTDL: 2,064 B-scans of 821 patients in seven classes, with a table.

Layout as in the data descriptor (Kulyabin and others, Scientific Data 11, 365, 2024) and as
loaders of it on GitHub read it: OCTDL/DISEASE/NAME.jpg and OCTDL_labels.csv with file_name
(without its ending), disease, patient_id and further columns (subcategory, condition, eye, sex,
year, image_width, image_height), which are taken where they are there.
"""

from oct_io.catalog.tables import Row, cell
from oct_io.datasets.recipe import SECOND_HAND, Found, Item, Recipe, answers, bscan_record
from oct_io.datasets.tree import Tree
from oct_io.volume import Laterality

TABLE = "OCTDL_labels.csv"
IMAGE = r"(AMD|DME|ERM|NO|RAO|RVO|VID)/([^/]+)\.(?:jpe?g|png)"
SIDES: dict[str, Laterality] = {"OD": "R", "OS": "L"}
SIZES = ("file_name", "patient_id", "image_width", "image_height", "image_hight")


def _read(tree: Tree) -> Found:
    table = tree.find(TABLE)
    if table is None:
        return Found(missing=[f"{TABLE}, which says whose the images are"])
    found, rows = Found(), dict[str, Row]()
    for row in tree.rows(table):
        rows[cell(row, "file_name").removesuffix(".jpg")] = row
    unlisted = 0
    for path, name in tree.match(IMAGE):
        row = rows.get(name[2], {})
        if not cell(row, "patient_id"):
            unlisted += 1
            continue
        record = bscan_record(
            path,
            cell(row, "patient_id"),
            laterality=SIDES.get(cell(row, "eye").upper(), "unknown"),
            device="optovue_avanti_rtvue_xr",
            region="Macula",
        )
        said = answers(row, *SIZES) | {"disease": cell(row, "disease") or name[1]}
        found.items.append(Item(record=record, row=said))
    if unlisted:
        found.missing.append(f"the patients of {unlisted:,} images, which {TABLE} does not list")
    return found


RECIPE = Recipe(
    name="octdl",
    title="OCTDL",
    read=_read,
    bscans=True,
    layout="OCTDL/AMD/amd_1047099_1.jpg and OCTDL_labels.csv",
    source="data.mendeley.com/datasets/sncdhf53xc",
    terms=f"CC BY 4.0, {SECOND_HAND}",
    spacing="not published; scans of different length",
    labels=("disease",),
    counts={"scans": 2064, "participants": 821},
)
