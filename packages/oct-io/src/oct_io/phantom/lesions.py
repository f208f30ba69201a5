"""What can be wrong with a phantom retina: cysts, drusen, thinning, and marks of a study group."""

from dataclasses import dataclass

import numpy as np

from oct_io.phantom.grid import Array, stream
from oct_io.phantom.retina import Retina

THINNED = ("rnfl", "gcl", "ipl")
THIN_FRACTION = 0.5
"""Share of the nerve fibre, ganglion cell and inner plexiform layers that `thin` takes away: the
loss of an advanced optic atrophy. The mean A-scan still mistakes it for a thinner or tilted eye."""

GROUP_THINNING_UM = (0.0, 1.5, 3.5, 6.0)
"""Thinning of the same layers, all together, by study group: a few micrometres, as expected."""

GROUP_FOCI = (1.0, 2.5, 5.0, 10.0)
"""Mean number of hyper-reflective foci by study group; healthy eyes have some as well."""


@dataclass(frozen=True, slots=True)
class Cyst:
    """A dark ellipsoid that follows the inner nuclear layer.

    Attributes:
        bscan_mm: centre, from the fovea.
        nasal_mm: centre, from the fovea.
        radius_mm: half axes along B-scans' normal and along columns.
        half_height_um: half axis in depth.
        lift: centre above (-1) to below (+1) the middle of the layer.
    """

    bscan_mm: float
    nasal_mm: float
    radius_mm: tuple[float, float]
    half_height_um: float
    lift: float


def _around_fovea(rng: np.random.Generator, near_mm: float, far_mm: float) -> tuple[float, float]:
    angle = 2 * np.pi * rng.random()
    radius = np.sqrt(near_mm**2 + (far_mm**2 - near_mm**2) * rng.random())
    return float(radius * np.sin(angle)), float(radius * np.cos(angle))


def thin_layers(retina: Retina, *, thin: bool, study_group: int, effect: float) -> dict[str, Array]:
    """Thickness of all layers after thinning, in micrometres; never zero."""
    thickness = dict(retina.thickness_um)
    usual = float(sum(thickness[name].mean() for name in THINNED))
    keep = 1 - min(effect * GROUP_THINNING_UM[study_group] / usual, 0.5)
    if thin:
        keep *= 1 - min(effect * THIN_FRACTION, 0.8)
    return thickness | {name: np.float32(keep) * thickness[name] for name in THINNED}


def draw_drusen(retina: Retina, seed: int, laterality: str, effect: float) -> Array:
    """Height by which 4 to 7 drusen lift the pigment epithelium, (bscans, columns) micrometres."""
    rng = stream(seed, "drusen", laterality)
    height = np.zeros_like(retina.bruch_um)
    for _ in range(int(rng.integers(4, 8))):
        y0, x0 = _around_fovea(rng, 0.2, 2.4)
        peak = 50 + 45 * rng.random()
        width_y, width_x = 0.30 + 0.15 * rng.random(), 0.12 + 0.13 * rng.random()
        y, x = (retina.bscan_mm - y0) / width_y, (retina.nasal_mm - x0) / width_x
        # A fourth power makes domes: flatter on top and steeper at the sides than a Gaussian.
        height = np.maximum(height, peak * np.exp(-((0.6 * (x**2 + y**2)) ** 2)))
    return (effect * height).astype(np.float32)


def draw_cysts(seed: int, laterality: str, effect: float) -> list[Cyst]:
    """The 3 to 6 intraretinal cysts of an eye with fluid."""
    rng = stream(seed, "fluid", laterality)
    cysts = []
    for _ in range(int(rng.integers(3, 7))):
        y, x = _around_fovea(rng, 0.3, 1.9)
        size = effect * (0.75 + 0.5 * rng.random())
        radius = (0.46 * size, 0.32 * size)
        cysts.append(Cyst(y, x, radius, 44 * size, float(rng.uniform(-0.6, 0.6))))
    return cysts


def cyst_half_height(cyst: Cyst, retina: Retina) -> Array:
    """Half the height of the cyst over each A-scan, (bscans, columns); 0 beside it."""
    if min(cyst.radius_mm) <= 0:
        return np.zeros_like(retina.bruch_um)
    y = (retina.bscan_mm - cyst.bscan_mm) / cyst.radius_mm[0]
    x = (retina.nasal_mm - cyst.nasal_mm) / cyst.radius_mm[1]
    height = cyst.half_height_um * np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    return np.asarray(height, dtype=np.float32)


def swelling(cyst: Cyst, retina: Retina) -> Array:
    """Oedema around a cyst, wider than the cyst and low: added thickness in micrometres."""
    if min(cyst.radius_mm) <= 0:
        return np.zeros_like(retina.bruch_um)
    y = (retina.bscan_mm - cyst.bscan_mm) / (2 * cyst.radius_mm[0])
    x = (retina.nasal_mm - cyst.nasal_mm) / (2 * cyst.radius_mm[1])
    height = 1.1 * cyst.half_height_um * np.exp(-0.5 * (x**2 + y**2))
    return np.asarray(height, dtype=np.float32)


def draw_foci(
    seed: int, laterality: str, *, study_group: int, effect: float
) -> list[tuple[float, float, float]]:
    """Hyper-reflective foci as (bscan_mm, nasal_mm, depth fraction of the neural retina)."""
    rng = stream(seed, "foci", laterality)
    healthy = GROUP_FOCI[0]
    count = int(rng.poisson(healthy + effect * (GROUP_FOCI[study_group] - healthy)))
    return [(*_around_fovea(rng, 0.3, 2.6), float(rng.uniform(0.35, 0.8))) for _ in range(count)]
