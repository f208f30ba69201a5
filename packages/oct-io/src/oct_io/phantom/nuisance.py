"""What a model may learn instead of disease: device and site tied to a label, labels shuffled."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from oct_io.phantom.grid import stream
from oct_io.phantom.tables import LESIONS, SITES, Person

LABELS = ("study_group", *LESIONS)


def label_of(person: Person, label: str) -> int:
    """0 or 1 for a lesion, 0 to 3 for the study group."""
    return int(getattr(person, label))


def tied(count: int, strength: float, seed: int, what: str) -> NDArray[np.bool_]:
    """Which of `count` participants have `what` decided by their label: a share of `strength`."""
    chosen: NDArray[np.bool_] = stream(seed, "confounder", what).random(count) < strength
    return chosen


def tie_sites(people: Sequence[Person], label: str, strength: float, seed: int) -> list[Person]:
    """The same people, a share of `strength` of them at the site that their label stands for.

    Ids are given anew, because their first digit is the site.
    """
    names = list(SITES)
    chosen = tied(len(people), strength, seed, "site")
    seen = dict.fromkeys(names, 0)
    found = []
    for person, moved in zip(people, chosen, strict=True):
        site = names[label_of(person, label) % len(names)] if moved else person.id[0]
        seen[site] += 1
        found.append(replace(person, id=f"{site}{seen[site]:03d}"))
    return found


def pick_devices(
    people: Sequence[Person], devices: int, label: str, strength: float, seed: int
) -> list[int]:
    """Number of the first device that each participant is scanned with.

    Taking turns spreads devices independently of labels, because people come in random order; a
    share of `strength` gets the device that the label stands for instead.
    """
    chosen = tied(len(people), strength, seed, "device")
    return [
        label_of(person, label) % devices if by_label else turn % devices
        for turn, (person, by_label) in enumerate(zip(people, chosen, strict=True))
    ]


def shuffle_lesions(people: Sequence[Person], seed: int) -> list[Person]:
    """People of the same ids, eyes and ages, each drawn with the lesions and group of another.

    Tables that keep the old lesions then say nothing about the voxels.
    """
    order = stream(seed, "null").permutation(len(people))
    names = ("study_group", *LESIONS, "arranged")
    return [
        replace(person, **{name: getattr(people[other], name) for name in names})
        for person, other in zip(people, order, strict=True)
    ]


def scan_nuisance(seed: int, scan: str, sd: float, what: str) -> float:
    """How much a display setting differs in one scan of a person, whatever the labels say."""
    return sd * float(stream(seed, "nuisance", what, scan).standard_normal()) if sd else 0.0


def site_gain_db(person: Person, gain_db: float) -> float:
    """How much brighter the site of this participant displays its scans: less, as is, or more."""
    return gain_db * (list(SITES).index(person.id[0]) - 1)
