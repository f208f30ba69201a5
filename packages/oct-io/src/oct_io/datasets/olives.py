"""OLIVES: B-scans of 96 eyes over two years of treatment, 9,408 of them with 16 biomarkers.

Layout as its authors' page (olivesgatech/OLIVES_Dataset) and loaders on GitHub have it: images in
Prime_FULL/SUBJECT/VISIT/EYE/N.png and TREX DME/ARM/SUBJECT/VISIT/EYE/N.tif, beside a fundus image
each, and Biomarker_Clinical_Data_Images.csv, whose first column is such a path and which has
Patient_ID, Eye_ID, BCVA, CST and a column a biomarker. Of subjects who are in no row, all images
of one number count as one participant: "0234GOD" and "0234GOS" are then of one.
"""

import re

from oct_io.catalog.tables import Row, cell
from oct_io.datasets.recipe import SECOND_HAND, Found, Item, Recipe, answers, bscan_record
from oct_io.datasets.tree import Tree
from oct_io.volume import Laterality

TABLE = "Biomarker_Clinical_Data_Images.csv"
IMAGE = r"(Prime_FULL|TREX[ _]DME/[^/]+)/([^/]+)/([VW]\d+)/(OD|OS)/(?!fundus)([^/]+)\.(?:png|tiff?)"
FUNDUS = r"(?:Prime_FULL|TREX[ _]DME/[^/]+)/[^/]+/[VW]\d+/(?:OD|OS)/fundus[^/]*"
SIDES: dict[str, Laterality] = {"OD": "R", "OS": "L"}
NO_ANSWERS = ("Patient_ID", "Eye_ID")


def _read(tree: Tree) -> Found:
    found, rows = Found(), dict[str, Row]()
    table = tree.find(TABLE)
    if table is None:
        found.missing.append(f"{TABLE}: get the labels, which are a file of their own")
    else:
        for row in tree.rows(table):
            rows[_place(next(iter(row.values())))] = row
    owners = {place.split("/")[0]: cell(row, "Patient_ID") for place, row in rows.items()}
    for path, name in tree.match(IMAGE):
        place = _place(path)
        number = re.match(r"[\d-]+", name[2])
        owner = owners.get(name[2].lower()) or f"{name[1]} {number[0] if number else name[2]}"
        record = bscan_record(
            path,
            owner,
            laterality=SIDES[name[4]],
            device="heidelberg_spectralis",
            region="Macula",
        )
        found.items.append(Item(record=record, row=_labels(rows.get(place))))
    list(tree.match(FUNDUS))
    return found


def _place(path: str) -> str:
    """Subject, visit, eye and name: what a path of the table and one on a disk share."""
    parts = path.strip("/").lower().split("/")[-4:]
    return "/".join([*parts[:3], parts[-1].rpartition(".")[0]])


def _labels(row: Row | None) -> Row:
    """Biomarkers and measures of an image, without its path and its ids."""
    if row is None:
        return {}
    path = next(iter(row))
    said = answers(row, path, *NO_ANSWERS)
    return {name: re.sub(r"\.0$", "", text) for name, text in said.items() if name}


RECIPE = Recipe(
    name="olives",
    title="OLIVES",
    read=_read,
    bscans=True,
    layout="Prime_FULL/01-001/W0/OD/1.png, TREX DME/GILA/0201GOD/V1/OD/1.tif and the labels",
    source="doi.org/10.5281/zenodo.7105232",
    terms=f"CC BY 4.0, {SECOND_HAND}",
    spacing="not published",
    labels=("fluid_irf", "drt_me", "bcva", "cst"),
)
