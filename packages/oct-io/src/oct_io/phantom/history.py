"""What the table says of a participant besides lesions: age, sex, severity and follow-up.

All of it is made up, and so is how strongly it goes with what is drawn; it is there so that every
kind of question has an answer. No voxel depends on it.
"""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

from oct_io.phantom.grid import Grid, stream
from oct_io.phantom.retina import THICKNESS_UM, Anatomy, draw_retina
from oct_io.phantom.tables import LESIONS, Person

HISTORY = ("sex", "severity", "years", "event")
"""Columns of participants.tsv, after the lesions: F or M, of no effect; how many of the three
lesions there are, 0 to 3; years of observation, and whether it ended with an event."""

AGES = (40, 85)  # as of AI-READI's participants; the upper end is not reached
AGE_CORRELATION = 0.8  # with thinness. Real retinas thin by about a percent in ten years, far less
RATE = 0.08  # events a year without a lesion; each lesion doubles it
OBSERVED_YEARS = (2.0, 8.0)


def tie_ages(people: Sequence[Person], *, shown: bool) -> list[Person]:
    """The same people, the older the thinner their retinas are drawn; lesions play no part.

    Args:
        people: with the seeds that their eyes are drawn from.
        shown: False where tables say nothing about voxels; ages then go with nothing.
    """
    strength = AGE_CORRELATION if shown else 0.0
    found = []
    for person in people:
        own = stream(person.seed, "age").standard_normal()
        mixed = math.sqrt(1 - strength**2) * own - strength * thickness_score(person.seed)
        rank = 0.5 * (1 + math.erf(mixed / math.sqrt(2)))
        age = min(AGES[1] - 1, AGES[0] + int(rank * (AGES[1] - AGES[0])))
        found.append(replace(person, age=age))
    return found


def thickness_score(seed: int) -> float:
    """How thick the retinas of this seed are drawn, in standard deviations from the usual."""
    steady = {one.name: 0.0 for one in fields(Anatomy) if "_sd" in one.name}
    anatomy = Anatomy(**steady | {"thickness_sd": 1.0})
    grid = Grid.of((2, 2, 2), (6.0, 1.0, 6.0), 1)
    layer = draw_retina(grid, anatomy, seed, "R").thickness_um["ez"]
    return float(math.log(layer.mean() / THICKNESS_UM["ez"]))


def severity_of(person: Person) -> int:
    """How many of the lesions there are."""
    return sum(bool(getattr(person, name)) for name in LESIONS)


def history_row(person: Person) -> dict[str, str]:
    """The columns `HISTORY` of a participant."""
    severity = severity_of(person)
    later = stream(person.seed, "follow-up")
    until_event = later.exponential(1 / (RATE * 2**severity))
    until_end = later.uniform(*OBSERVED_YEARS)
    return {
        "sex": "F" if stream(person.seed, "sex").random() < 0.5 else "M",
        "severity": str(severity),
        "years": f"{max(0.01, min(until_event, until_end)):.2f}",
        "event": str(until_event <= until_end).upper(),
    }
