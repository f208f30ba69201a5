"""Lesions that are nothing but another order of the same parts: no amount of anything tells them.

Once switched on, every eye has the marks, ill or not. A mark is a block of tissue half of which is
brighter and half as much darker than its layer, in equal parts at every depth: no grey histogram,
no brightness by place and no profile by depth, aligned or not, knows how the halves lie. The two
ways of laying them are negatives or mirror images of each other, so that no second moment of a
patch, hence no principal component, knows either. Where marks lie is drawn before their order is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from oct_io.phantom.devices import decibels
from oct_io.phantom.grid import Array, Grid, stream
from oct_io.phantom.retina import SURFACES
from oct_io.phantom.tables import Person


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """Marks of one layer, and what makes them a lesion.

    Attributes:
        top: layer at whose upper edge the marks begin.
        bottom: layer at whose upper edge they end.
        depth_um: end them so far below `top` instead, where it is not 0.
        half_mm: half of a mark's size along B-scans' normal and along columns.
        pitch_mm: distance of neighbouring places for a mark, in the same order.
        share: of the places that have one.
        bare_mm: radius around the fovea without any, where the layer is too thin for them.
        contrast_db: by which the halves are brighter and darker than their layer.
        form: the dark half is the "core" or the rim, one of the two "sides", or a "wedge", which
            points up or down.
        mirrored: marks below the fovea are laid in the other way than those above.
    """

    top: str
    bottom: str
    depth_um: float = 0.0
    half_mm: tuple[float, float]
    pitch_mm: tuple[float, float]
    share: float
    bare_mm: float
    contrast_db: float
    form: Literal["core", "sides", "wedge"] = "core"
    mirrored: bool = False


_BENEATH = Arrangement(
    top="choroid",
    bottom="sclera",
    depth_um=110.0,
    half_mm=(0.5, 0.32),
    pitch_mm=(1.2, 0.85),
    share=0.8,
    bare_mm=0.0,
    contrast_db=4.0,
    form="sides",  # of cores a filter bank knew, from pairs of visits, AUROC .69
)
"""Blotches beneath the pigment epithelium, that two eyes or two visits are compared by."""

ARRANGEMENTS = {
    "inverted": Arrangement(
        top="gcl",
        bottom="inl",
        half_mm=(0.5, 0.32),
        pitch_mm=(1.2, 0.85),
        share=0.6,
        bare_mm=0.75,
        contrast_db=3.5,
        form="sides",  # of cores a filter bank knew, AUROC .71: rims are thinner than cores
    ),
    "misplaced": Arrangement(
        top="inl",
        bottom="onl",
        half_mm=(0.5, 0.32),
        pitch_mm=(1.2, 0.85),
        share=0.6,
        bare_mm=0.75,
        contrast_db=5.0,
        mirrored=True,
    ),
    "texture": Arrangement(
        top="onl",
        bottom="ez",
        half_mm=(0.4, 0.2),
        pitch_mm=(0.9, 0.5),
        share=0.7,
        bare_mm=0.0,
        contrast_db=2.5,  # with 3, AUROC .63 of a filter bank; third moments grow with the cube
        form="wedge",
    ),
    "asymmetry": _BENEATH,
    "progression": _BENEATH,
}
"""By label. What a layman would see in the B-scans of an ill eye:

- `inverted`: the pale inner layers hold blotches that are dark on the left and bright on the right.
  Healthy eyes have as many, bright on the left and dark on the right.
- `misplaced`: between inner layers and photoreceptors, blotches with a bright heart lie above the
  fovea and those with a dark heart below it. In healthy eyes it is the other way round.
- `texture`: the wide dark layer is grained with darker wedges that stand on their points. In
  healthy eyes they stand on their bases.
- `asymmetry`: beneath the pigment epithelium, the blotches of one eye are bright on the left of the
  image and those of the other on the right. In healthy participants both eyes have the same, left
  or right: one eye alone says nothing of the label, and neither does a mean over both.
- `progression`: in the same depth, blotches come and go. Where they were bright on the left at one
  visit, those of the next are on the right, or the other way round; in healthy eyes they stay of
  one kind: one visit alone says nothing. With one (`PhantomTree.visits`) there is no label to see.
"""


FOLDED = "folded"
"""Another order without marks: `structures.fold_retina`. Folds of the whole retina run down towards
the nose in ill eyes, up towards it in healthy ones: the same B-scans, in the opposite order."""
ORDERS = (*ARRANGEMENTS, FOLDED)
"""Every label that is only an order of parts."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One block, by its place and how its halves lie.

    Attributes:
        bscan_mm: middle, from the fovea, above it where negative.
        nasal_mm: middle, from the fovea.
        sign: 1 for a bright core, a bright left side or a wedge that points up, -1 for the other.
    """

    bscan_mm: float
    nasal_mm: float
    sign: int


FIELD_MM = 5.2
"""Side of the square around the fovea that has marks; the usual window shows 4 mm."""


def lay_marks(name: str, seed: int, laterality: str, *, other: bool, visit: int = 0) -> list[Mark]:
    """The marks of an eye: on a jittered grid, so that none lies on another.

    Args:
        name: of `ARRANGEMENTS`.
        seed: of the person.
        laterality: R or L.
        other: whether they are laid as in an ill eye; their places do not depend on it.
        visit: from 0; at each, those of `progression` lie elsewhere, or whoever compares two visits
            would see marks change without knowing their kind.
    """
    again = [visit] if visit and name == "progression" else []
    kind, rng = ARRANGEMENTS[name], stream(seed, "arrangement", name, laterality, *again)
    (pitch_y, pitch_x), (half_y, half_x) = kind.pitch_mm, kind.half_mm
    rows, columns = (2 * round(FIELD_MM / 2 / pitch) for pitch in kind.pitch_mm)
    aside = rng.random()  # any place across is as likely as another, or a thumbnail knew the halves
    marks = []
    for row, column in np.ndindex(rows, columns + 1):
        taken, jitter = rng.random() < kind.share, rng.uniform(-1, 1, 2)
        y = pitch_y * (row - (rows - 1) / 2) + (pitch_y / 2 - half_y) * jitter[0]
        x = pitch_x * (column - columns / 2 + aside - 0.5) + (pitch_x / 2 - half_x) * jitter[1]
        if taken and np.hypot(y, x) > kind.bare_mm:
            flipped = other != (kind.mirrored and y > 0)
            marks.append(Mark(float(y), float(x), -1 if flipped else 1))
    return marks


def paint_marks(
    backscatter: Array,
    grid: Grid,
    surfaces_um: Array,
    marks: Mapping[str, Sequence[Mark]],
    *,
    fovea_mm: tuple[float, float],
    effect: float,
) -> None:
    """Brighten and darken the halves of all marks, in place.

    Args:
        backscatter: (bscans, rows, columns).
        grid: where its voxels lie.
        surfaces_um: depth of all surfaces, those of `retina.SURFACES`.
        marks: name of an arrangement -> where it has them.
        fovea_mm: along B-scans' normal and towards the nose.
        effect: of what contrast they usually have.
    """
    y_mm, x_mm = grid.bscan_mm[:, 0] - fovea_mm[0], grid.nasal_mm[0] - fovea_mm[1]
    rightwards = 1 if x_mm[-1] > x_mm[0] else -1
    for name, laid in marks.items():
        kind = ARRANGEMENTS[name]
        for mark in laid:
            share = _covered(y_mm - mark.bscan_mm, kind.half_mm[0], grid.spacing.bscan)
            across = _covered(x_mm - mark.nasal_mm, kind.half_mm[1], grid.spacing.column)
            bscans, columns = _run(share > 0), _run(across > 0)
            if bscans == NOWHERE or columns == NOWHERE:
                continue
            top, bottom = _band(surfaces_um[:, bscans, columns], kind)
            depth = grid.row_um[:, None]
            step_um = np.float32(1000 * grid.spacing.row)
            inside = np.clip((depth - top[:, None]) / step_um + 0.5, 0, 1)
            inside = inside * np.clip((bottom[:, None] - depth) / step_um + 0.5, 0, 1)
            down = np.clip((depth - top[:, None]) / (bottom - top)[:, None], 0, 1)
            aside_mm = rightwards * (x_mm[columns] - mark.nasal_mm)
            halves = _halves(aside_mm, down, grid.spacing.column, kind, mark.sign)
            halves = halves * inside * share[bscans, None, None]
            change_db = np.float32(effect * kind.contrast_db) * halves
            backscatter[bscans, :, columns] *= decibels(change_db)


NOWHERE = slice(0, 0)


def _run(there: NDArray[np.bool_]) -> slice:
    """From the first to the last that is true."""
    at = np.flatnonzero(there)
    return slice(int(at[0]), int(at[-1]) + 1) if len(at) else NOWHERE


def _band(surfaces_um: Array, kind: Arrangement) -> tuple[Array, Array]:
    """Upper and lower end of the marks over each A-scan."""
    top = surfaces_um[SURFACES.index(kind.top)]
    if kind.depth_um:
        return top, top + np.float32(kind.depth_um)
    return top, surfaces_um[SURFACES.index(kind.bottom)]


def _covered(distance: Array, half: Array | float, step: float) -> Array:
    """Share of voxels of width `step` that lies within `half` of the middle."""
    low, high = distance - step / 2, distance + step / 2
    share = (np.minimum(high, half) - np.maximum(low, -half)) / step
    return np.clip(share, 0, 1).astype(np.float32)


def _halves(x_mm: Array, down: Array, step_mm: float, kind: Arrangement, sign: int) -> Array:
    """1 in the bright half, -1 in the dark one, 0 beside the mark, (bscans, rows, columns).

    Args:
        x_mm: of the columns, from the middle of the mark, to the right of the image.
        down: (bscans, rows, columns), 0 at the upper to 1 at the lower end.
        step_mm: between columns.
        kind: of mark.
        sign: how its halves lie.
    """
    half = kind.half_mm[1]
    whole = _covered(x_mm, half, step_mm)
    if kind.form == "sides":
        right = _covered(x_mm - half / 2, half / 2, step_mm)
        return np.asarray(np.broadcast_to(sign * (whole - 2 * right), down.shape))
    if kind.form == "core":
        core = 2 * _covered(x_mm, half / 2, step_mm) - whole
        return np.asarray(np.broadcast_to(sign * core, down.shape))
    # Dark in the middle and at the rim, always half of the width: the dark wedge grows downwards,
    # or upwards, as the bright rest draws aside.
    inner = np.float32(half / 2) * (down if sign > 0 else 1 - down)
    bright = _covered(x_mm, inner + np.float32(half / 2), step_mm)
    bright = bright - _covered(x_mm, inner, step_mm)
    return np.asarray(2 * bright - whole)


def arrange(
    people: Sequence[Person], names: Sequence[str], *, seed: int, prevalence: float
) -> list[Person]:
    """The same people with the labels `names`, independent of all else and of one another."""
    count = len(people)
    ill = {
        name: stream(seed, "arranged", name).permutation(np.arange(count) < prevalence * count)
        for name in names
    }
    return [
        replace(person, arranged=tuple(name for name in names if ill[name][number]))
        for number, person in enumerate(people)
    ]


def shown_by(
    person: Person, names: Iterable[str], laterality: str, visit: int = 0
) -> Iterator[tuple[str, bool]]:
    """Each of `names`, and whether this eye's marks are laid in the other way at a visit, from 0.

    Of `asymmetry` the right eye is laid by chance, and the left one likewise or not; of
    `progression` each eye is at the first visit, and at later ones likewise or not.
    """
    for name in names:
        other = name in person.arranged
        if name == "asymmetry":
            chance = bool(stream(person.seed, "asymmetry").integers(2))
            other = chance != (other and laterality == "L")
        elif name == "progression":
            chance = bool(stream(person.seed, "progression", laterality).integers(2))
            other = chance != (other and visit > 0)
        yield name, other
