"""OCT5k: Spectralis B-scans of 60 people, age-related degeneration, oedema or neither.

Layout as three loaders on GitHub read it: Images/Images_Manual/GROUP PartN/GROUP (K).E2E/, where
images lie at once or in folders of a visit, and Masks beside Images. What is in
Images/Images_Automatic is taken where Images_Manual is not there, since both hold scans of the same
people. The masks of its three graders are not read: they are of B-scans, and the classes of their
grey levels were found in code alone.
"""

from oct_io.datasets.recipe import SECOND_HAND, Found, Item, Recipe, bscan_record
from oct_io.datasets.tree import Tree

IMAGE = (
    r"Images/Images_{kind}/(AMD|DME|Normal)[^/]*/((?:AMD|DME|Normal) ?\(\d+\))[^/]*/"
    r"(?:[^/]+/)?[^/]+\.(?:png|tiff?|jpe?g)"
)


def _read(tree: Tree) -> Found:
    found = Found()
    chosen = list(tree.match(IMAGE.format(kind="Manual")))
    automatic = list(tree.match(IMAGE.format(kind="Automatic")))
    for path, name in chosen or automatic:
        owner = name[2].replace(" ", "")
        record = bscan_record(path, owner, device="heidelberg_spectralis", region="Macula")
        row = {"disease": name[1], "ill": "0" if name[1] == "Normal" else "1"}
        found.items.append(Item(record=record, row=row))
    if automatic and not chosen:
        found.missing.append("Images/Images_Manual; Images_Automatic is taken in its place")
    list(tree.match(r"Masks/.*"))
    return found


RECIPE = Recipe(
    name="oct5k",
    title="OCT5k",
    read=_read,
    bscans=True,
    layout="Images/Images_Manual/AMD Part1/AMD (1).E2E/Image 9.png",
    source="doi.org/10.5522/04/22128671, the research data repository of UCL",
    terms=f"CC0 1.0, {SECOND_HAND}",
    spacing="not published",
    labels=("disease", "ill"),
    counts={"participants": 60},
)
