"""Which two volumes belong together: the eyes of a participant, or two scans of one eye."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from oct_io.cache.entries import Entries
from oct_vjepa.objectives.configuration import ObjectiveConfig

PAIRS = ("none", "eyes", "scans", "devices", "participant")
"""What the setting `pairs` may be; its text says what each is."""
UNKNOWN = "unknown"  # as the side of an eye


class Partners:
    """Who may be the partner of each volume; a few numbers a volume are held.

    Args:
        entries: of the cache.
        indices: which of its volumes take part; partners are among them.
        kind: of `PAIRS`, but not "none".
    """

    def __init__(self, entries: Entries, indices: Sequence[int], kind: str) -> None:
        chosen = entries.take(indices)
        sides = chosen.coded("laterality")
        self._kind, self._devices = kind, chosen.coded("device").codes
        self._sides, self._known = sides.codes, ~sides.among([UNKNOWN])
        self._owners = chosen.coded("participant").codes
        self._order = np.argsort(self._owners, kind="stable")
        owners = np.arange(self._owners.max() + 2)
        self._first = np.searchsorted(self._owners[self._order], owners)

    def __len__(self) -> int:
        """How many volumes have a partner."""
        return sum(len(self.of(index)) > 0 for index in range(len(self._owners)))

    def of(self, index: int) -> NDArray[np.int64]:
        """Numbers of the partners of a volume, counted as `indices` are."""
        owner = self._owners[index]
        found = self._order[self._first[owner] : self._first[owner + 1]]
        found = found[found != index]
        same = self._sides[found] == self._sides[index]
        if self._kind == "eyes":
            return found[~same & self._known[found] & self._known[index]]
        if self._kind == "scans":
            return found[same & self._known[index]]
        if self._kind == "devices":
            return found[same & (self._devices[found] != self._devices[index])]
        return found

    def choose(self, index: int, draw: int) -> int:
        """The partner that `draw` names; the volume itself where it has none."""
        found = self.of(index)
        return int(found[draw % len(found)]) if len(found) else index


def check_pairs(pairs: str, objective: ObjectiveConfig) -> None:
    """Refuse pairs that nobody reads, and a loss on partners whom nobody chooses.

    Raises:
        ValueError: one of them, or no such kind of pair.
    """
    if pairs not in PAIRS:
        raise ValueError(f"pairs ({pairs!r}) must be one of {', '.join(PAIRS)}")
    if pairs != "none" and not objective.takes_pairs:
        raise ValueError(
            f"pairs ({pairs}) does nothing with this objective; take objective=lejepa or dino, or "
            "set objective.partner_weight of V-JEPA"
        )
    partner_weight = getattr(objective, "partner_weight", 0)
    if pairs == "none" and partner_weight:
        others = ", ".join(PAIRS[1:])
        raise ValueError(f"objective.partner_weight ({partner_weight}) needs pairs={others}")


def find_partners(
    pairs: str, entries: Entries, indices: Sequence[int], *, of: str
) -> Partners | None:
    """Find the partners that `pairs` asks for, and tell how many volumes have one.

    Args:
        pairs: one of `PAIRS`.
        entries: of the cache.
        indices: which of its volumes take part.
        of: the set's name.

    Raises:
        ValueError: none has a partner.
    """
    if pairs == "none":
        return None
    partners = Partners(entries, indices, pairs)
    if not len(partners):
        raise ValueError(f"pairs ({pairs}): no volume of {of} has a partner")
    print(f"pairs={pairs}: {len(partners):,} of {len(indices):,} volumes of {of} have a partner")
    return partners
