"""Kermany's OCT2017: some 109,000 Spectralis B-scans in four classes, named by patient.

Layout as its card on Mendeley Data (rscbjbr9sj) says, which many pages on GitHub repeat:
OCT2017/PART/CLASS/CLASS-PATIENT-NUMBER.jpeg; PART is train, test and, in the copy of Kaggle, val.
Participants of the test part who are in the training part too are kept for the test alone, as
others do: 104,649 of 108,312 training images are left then (article 2778252 of
tvst.arvojournals.org).
"""

from oct_io.datasets.recipe import SECOND_HAND, Found, Item, Recipe, bscan_record
from oct_io.datasets.tree import Tree

IMAGE = r"(train|val|test)/(CNV|DME|DRUSEN|NORMAL)/(?:CNV|DME|DRUSEN|NORMAL)-(\d+)-\d+\.jpe?g"


def _read(tree: Tree) -> Found:
    found = Found()
    for path, name in tree.match(IMAGE):
        record = bscan_record(path, name[3], device="heidelberg_spectralis", region="Macula")
        row = {"disease": name[2], "ill": "0" if name[2] == "NORMAL" else "1"}
        found.items.append(Item(record=record, row=row, part=name[1]))
    there = {one.part for one in found.items}
    for part in sorted({"train", "test"} - there) if there else ():
        found.missing.append(f"the folder {part}: unpack all of the archive")
    return found


RECIPE = Recipe(
    name="kermany",
    title="Kermany OCT2017",
    read=_read,
    bscans=True,
    layout="OCT2017/train/CNV/CNV-1016042-1.jpeg",
    source="data.mendeley.com/datasets/rscbjbr9sj",
    terms=f"CC BY 4.0, {SECOND_HAND}",
    spacing="not published",
    split="train and test, in the copy of Kaggle val, too",
    labels=("disease", "ill"),
)
