"""Names of layer boundaries and of fluids: one table, and the words that vendors have for them.

A boundary is named by what it parts, from the vitreous outwards. The names stand for the surfaces
of DICOM PS3.16, context group 4273 "Retinal Segmentation Surface"; what vendors call a boundary by
the layer above it alone (HEYEX: RNFL) is then no longer mistaken for the layer.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

Value = TypeVar("Value")


class Boundary(NamedTuple):
    """One row of the table."""

    code: str  # in context group 4273; of DCM, or of SNOMED CT for the two membranes
    meaning: str  # there
    words: tuple[str, ...]  # what files call it, besides its name


BOUNDARIES: Mapping[str, Boundary] = {
    "ILM": Boundary("280677004", "ILM - Internal limiting membrane", ()),
    "RNFL/GCL": Boundary("128289", "Outer surface of RNFL", ("RNFL", "RNFL_GCL", "NFL/GCL")),
    "GCL/IPL": Boundary("128290", "Outer surface of GCL", ("GCL", "GCL_IPL")),
    "IPL/INL": Boundary("128291", "Outer surface of IPL", ("IPL", "IPL_INL")),
    "INL/OPL": Boundary("128292", "Outer surface of INL", ("INL", "INL_OPL")),
    "OPL/ONL": Boundary("128293", "Outer surface of OPL", ("OPL", "OPL_ONL", "OPL/HFL")),
    "ELM": Boundary("76710003", "ELM - External limiting membrane", ("ONL/ELM",)),
    "EZ": Boundary(
        "128295",
        "Surface between Inner and Outer Segments of the photoreceptors",
        ("PR1", "MZ_EZ", "IS/OS"),
    ),
    "IZ": Boundary(
        "128296", "Surface of the interdigitating zone between retina and RPE", ("PR2",)
    ),
    "RPE": Boundary("128297", "Anterior surface of the RPE", ("IZ_RPE", "OS/RPE")),
    "RPE/BM": Boundary("128299", "Posterior surface of the RPE", ()),
    "BM": Boundary("128300", "Outer surface of the BM", ()),
    "CSI": Boundary("128301", "Surface of the choroid-sclera interface", ("CHO/SCL",)),
}
"""Standard names from the vitreous outwards. Words in capitals are HEYEX's (.vol, .xml, .e2e; eyepy
has PR1 and EZ, PR2 and IZ for the same line), those with a low line Topcon's, as oct-converter
names the contours of .fda files. Where vendors put a boundary within a blurred band differs."""

FLUIDS: Mapping[str, str] = {
    "IRF": "intraretinal fluid",
    "SRF": "subretinal fluid",
    "PED": "pigment epithelial detachment",
}
"""Classes of fluid masks by the names that the RETOUCH challenge gave them."""

BACKGROUND = "background"
"""Name of label 0 in every mask."""

_WORDS = {word: name for name, row in BOUNDARIES.items() for word in (name, *row.words)}
_ORDER = {name: place for place, name in enumerate(BOUNDARIES)}


def standard_name(word: str) -> str:
    """Standard name of a boundary; a word that the table lacks stays as it is."""
    return _WORDS.get(word.strip().upper(), word.strip())


def with_standard_names(layers: Mapping[str, Value]) -> dict[str, Value]:
    """The same under standard names, from the vitreous outwards.

    Where two words mean one boundary, the second one keeps its own word.
    """
    found: dict[str, Value] = {}
    for word, value in layers.items():
        name = standard_name(word)
        found[word if name in found else name] = value
    return {name: found[name] for name in in_depth(found)}


def in_depth(names: Iterable[str]) -> list[str]:
    """Names of boundaries, each once, from the vitreous outwards; unknown ones last, sorted."""
    return sorted(set(names), key=lambda name: (_ORDER.get(name, len(_ORDER)), name))


def join_classes(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Classes of several masks as one list: background, then fluids, then others by name.

    Nothing for no lists.
    """
    names = {name for names in lists for name in names}
    if not names:
        return ()
    known = [name for name in FLUIDS if name in names]
    return (BACKGROUND, *known, *sorted(names - {BACKGROUND, *FLUIDS}))
