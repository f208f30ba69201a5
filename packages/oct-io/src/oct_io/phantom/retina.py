"""Layer surfaces of a healthy macula, by superposition, in micrometres."""

from dataclasses import dataclass

import numpy as np

from oct_io.phantom.grid import Array, Grid, smooth_noise, stream

INNER = ("rnfl", "gcl", "ipl", "inl", "opl")
LAYERS = (*INNER, "onl", "ez", "os", "rpe", "druse", "choroid")
"""From the vitreous outwards. Surface i is the upper edge of layer i; the last one the lower edge
of the choroid. `onl` reaches down to the ellipsoid zone `ez`, past the external limiting membrane.
`druse` is what lies between pigment epithelium and Bruch's membrane, nothing in a healthy eye."""

SURFACES = (*LAYERS, "sclera")

THICKNESS_UM = {
    "rnfl": 28.0,
    "gcl": 42.0,
    "ipl": 38.0,
    "inl": 35.0,
    "opl": 27.0,
    "onl": 92.0,
    "ez": 17.0,
    "os": 30.0,
    "rpe": 24.0,
    "druse": 0.0,
    "choroid": 250.0,
}
"""Usual thickness away from the fovea, as the literature on healthy adults has it."""

REFLECTIVITY_DB = {
    "vitreous": -34.0,
    "rnfl": -4.0,
    "gcl": -9.0,
    "ipl": -7.0,
    "inl": -12.5,
    "opl": -9.0,
    "onl": -17.0,
    "ez": -2.0,
    "os": -11.0,
    "rpe": 0.0,
    "druse": -6.0,
    "choroid": -7.0,
    "sclera": -5.0,
}
"""Backscatter relative to the pigment epithelium, read off a mean A-scan of a real Spectralis
volume flattened to Bruch's membrane, with its display taken as 32 dB over 255 grey levels."""


@dataclass(kw_only=True, slots=True)
class Anatomy:
    """How much retinas differ. All `_sd` are standard deviations.

    The defaults are wider than nature's: they make a mean A-scan a poor judge of thickness, as
    eye length, tilt and position do across real scanners.
    """

    thickness_sd: float = 0.20
    """Common factor on all layers of a participant; hides a thinning of some of them from anyone
    who looks at total thickness alone."""

    layer_sd: float = 0.03
    """Factor on each layer of its own; kept small, so that ratios of layers stay telling."""

    undulation_sd: float = 0.05
    """Slow variation of a layer's thickness over the field."""

    reflectivity_sd_db: float = 0.5
    """Decibels on each layer of its own."""

    media_sd_db: float = 1.0
    """Light lost in lens and tear film, most of it in both eyes alike: the whole retina is darker
    and the noise floor is not, so that a bright scan is not to be mistaken for a thick retina."""

    tilt_sd: float = 0.035
    """Slope of the retina in each lateral direction; 0.035 is 105 micrometres at 3 mm."""

    curvature_mean: float = 0.012
    """One over the radius as displayed, per millimetre; edges bend towards the vitreous."""

    curvature_sd: float = 0.012
    """Differs with eye length and pivot of the scanner."""

    depth_sd_um: float = 40.0
    """Height at which the retina lies in the window."""

    fovea_offset_sd_mm: float = 0.18
    """How well the eye fixates."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"anatomy.{name} ({value}) must be zero or more")


@dataclass(frozen=True, slots=True)
class Retina:
    """One eye without its lesions.

    Attributes:
        thickness_um: layer name -> (bscans, columns), positive.
        bruch_um: (bscans, columns), depth of Bruch's membrane below the window's upper edge.
        reflectivity_db: layer name -> decibels; with "vitreous" and "sclera".
        bscan_mm: (bscans, 1) distance from the fovea.
        nasal_mm: (1, columns) distance from the fovea, towards the nose.
    """

    thickness_um: dict[str, Array]
    bruch_um: Array
    reflectivity_db: dict[str, float]
    bscan_mm: Array
    nasal_mm: Array


def draw_retina(grid: Grid, anatomy: Anatomy, seed: int, laterality: str) -> Retina:
    """Draw the eye that `seed` and `laterality` name, on `grid`.

    The two eyes of a seed share what belongs to a person (overall thickness, most of the layers'
    own factors, brightness of layers) and differ in the rest (fovea, tilt, position).
    """
    person, eye = stream(seed, "person"), stream(seed, "eye", laterality)
    media = _media_db(anatomy, seed, laterality)
    offset = anatomy.fovea_offset_sd_mm * eye.standard_normal(2)
    bscan_mm = (grid.bscan_mm - offset[0]).astype(np.float32)
    nasal_mm = (grid.nasal_mm - offset[1]).astype(np.float32)
    reflectivity = {
        name: level + media + anatomy.reflectivity_sd_db * person.standard_normal()
        for name, level in REFLECTIVITY_DB.items()
    }
    return Retina(
        thickness_um=_thickness(grid, anatomy, (person, eye), bscan_mm, nasal_mm),
        bruch_um=_bruch(grid, anatomy, eye),
        reflectivity_db=reflectivity,
        bscan_mm=bscan_mm,
        nasal_mm=nasal_mm,
    )


def _media_db(anatomy: Anatomy, seed: int, laterality: str) -> float:
    shared, own = stream(seed, "media"), stream(seed, "media", laterality)
    return anatomy.media_sd_db * (0.8 * shared.standard_normal() + 0.6 * own.standard_normal())


def _bruch(grid: Grid, anatomy: Anatomy, eye: np.random.Generator) -> Array:
    tilt = anatomy.tilt_sd * eye.standard_normal(2)
    bend = anatomy.curvature_mean + anatomy.curvature_sd * eye.standard_normal()
    window_um = grid.spacing.row * len(grid.row_um) * 1000
    # A bit below the middle: the neural retina is above this surface, most of the choroid's
    # visible part below.
    depth = 0.56 * window_um + anatomy.depth_sd_um * eye.standard_normal()
    y, x = grid.bscan_mm, grid.nasal_mm
    plane = 1000 * (tilt[0] * y + tilt[1] * x - bend * (x**2 + y**2) / 2)
    slow = _slow_field(grid, eye)
    return (depth + plane - plane.mean() + 6 * slow).astype(np.float32)


def _slow_field(grid: Grid, rng: np.random.Generator) -> Array:
    width = (1.5 / grid.spacing.bscan, 1.5 / grid.spacing.column)  # 1.5 mm
    return smooth_noise(rng, (grid.shape[0], grid.shape[2]), width)


def _thickness(
    grid: Grid,
    anatomy: Anatomy,
    rngs: tuple[np.random.Generator, np.random.Generator],
    bscan_mm: Array,
    nasal_mm: Array,
) -> dict[str, Array]:
    person, eye = rngs
    common = np.exp(anatomy.thickness_sd * person.standard_normal())
    pit = 0.90 + 0.06 * eye.random()  # below 1: a thin bridge of inner retina remains
    pit_mm, rim_mm = 0.42 + 0.12 * eye.random(), 1.1 + 0.4 * eye.random()
    r2 = bscan_mm**2 + nasal_mm**2
    narrow, wide = np.exp(-r2 / (2 * pit_mm**2)), np.exp(-r2 / (2 * rim_mm**2))
    # A difference of Gaussians, as foveal pits are commonly described: the second bracket is
    # never negative because the rim is wider than the pit.
    inner = 1 - pit * narrow + 0.25 * (wide - narrow)
    arcuate = np.exp(-((np.abs(bscan_mm) - 2.2) ** 2) / (2 * 0.8**2))
    shape = dict.fromkeys(LAYERS, np.ones_like(r2))
    shape.update(dict.fromkeys(INNER, inner))
    shape["rnfl"] = inner * (np.clip(0.7 + 0.2 * nasal_mm, 0.25, 1.6) + 0.4 * arcuate)
    shape["onl"] = 1 + 0.4 * narrow
    shape["os"] = 1 + 0.25 * narrow
    thickness: dict[str, Array] = {}
    for name in LAYERS:
        own = 0.8 * person.standard_normal() + 0.6 * eye.standard_normal()
        size = THICKNESS_UM[name] * np.exp(anatomy.layer_sd * own)
        if name == "choroid":  # varies on its own, by a quarter
            size *= np.exp(0.25 * person.standard_normal())
        else:
            size *= common
        waves = np.exp(anatomy.undulation_sd * _slow_field(grid, eye))
        thickness[name] = (size * shape[name] * waves).astype(np.float32)
    return thickness


def stack_surfaces(bruch_um: Array, thickness_um: dict[str, Array]) -> Array:
    """Depth of all surfaces, (len(SURFACES), bscans, columns); they never cross.

    Layers stand on Bruch's membrane, so that a thinner one lowers what lies above it.
    """
    above = np.stack([thickness_um[name] for name in LAYERS[:-1]])
    from_bruch = np.cumsum(above[::-1], axis=0)[::-1]
    surfaces = [*(bruch_um - from_bruch), bruch_um, bruch_um + thickness_um["choroid"]]
    return np.stack(surfaces).astype(np.float32)
