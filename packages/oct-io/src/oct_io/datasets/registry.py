"""All recipes by name."""

from collections.abc import Mapping
from difflib import get_close_matches

from oct_io.datasets import (
    duke,
    fairvision,
    kermany,
    maetschke,
    mexico,
    oct5k,
    octa500,
    octdl,
    olives,
    retouch,
)
from oct_io.datasets.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    one.name: one
    for one in (
        mexico.RECIPE,
        duke.DME_RECIPE,
        duke.AMD_RECIPE,
        kermany.RECIPE,
        octdl.RECIPE,
        oct5k.RECIPE,
        octa500.RECIPE,
        olives.RECIPE,
        fairvision.RECIPE,
        retouch.RECIPE,
        maetschke.RECIPE,
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = get_close_matches(name, RECIPES, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"({name}) must be a data set that is known; {meant}{', '.join(RECIPES)}")
