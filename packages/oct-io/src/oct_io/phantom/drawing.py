"""Draw one phantom volume, with or without the truth behind it."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from oct_io.dicom.layout import CIRCLE_RADIUS_MM
from oct_io.phantom.arrangements import FOLDED, ORDERS, Mark, lay_marks, paint_marks
from oct_io.phantom.devices import Device, decibels, form_image, three_counts, three_sizes
from oct_io.phantom.grid import Array, Grid, smooth_noise, stream
from oct_io.phantom.lesions import (
    Cyst,
    cyst_half_height,
    draw_cysts,
    draw_drusen,
    draw_foci,
    swelling,
    thin_layers,
)
from oct_io.phantom.retina import LAYERS, SURFACES, Anatomy, Retina, draw_retina, stack_surfaces
from oct_io.phantom.scanners import find_device, fit_anatomy, is_disc, protocol_of
from oct_io.phantom.structures import carve_disc, disc_grid, draw_vessels, fold_retina, radial_grid
from oct_io.threads import one_thread
from oct_io.volume import OctVolume, Pattern, Spacing

RADIAL_CIRCLES = 3
"""Spectralis' scan of the nerve head has 24 lines and 3 circles."""


@dataclass(kw_only=True, slots=True)
class Phantom:
    """What to draw. With the same seed, only what a field says differs between two phantoms."""

    device: str = "phantom_a"
    """One of `devices.DEVICES`, or a protocol of AI-READI (`scanners.SCANNERS`) at true size."""

    laterality: str = "R"
    """R or L: the two eyes of the person that the seed names."""

    fluid: bool = False
    """3 to 6 dark cysts in the inner retina."""

    drusen: bool = False
    """4 to 7 bumps below the pigment epithelium."""

    thin: bool = False
    """Thinning of nerve fibre, ganglion cell and inner plexiform layers."""

    arranged: dict[str, bool] = field(default_factory=dict)
    """What of `arrangements.ORDERS` to draw, and whether it is laid as in an ill eye."""

    study_group: int = 0
    """0 to 3: thinning by a few micrometres, and more hyper-reflective foci."""

    effect: float = 1.0
    """Size of all of the above; 0 draws a healthy eye whatever the labels say, for null tests."""

    acquisition: int = 0
    """Another number, another scan of the same eye: new speckle and noise, same retina, but for the
    marks of `progression`."""

    shape: tuple[int, int, int] | None = None
    """B-scans, rows, columns; None takes the device's own."""

    extent_mm: tuple[float, float, float] | None = None
    """Field of view in the same order; None takes the device's own."""

    scale: float = 1.0
    """Share of the device's B-scans, rows and columns, over the same field of view; a true-size
    volume has 20 to 260 million voxels."""

    gain_db: float = 0.0
    """Brighter by so much than the device usually is; a nuisance that says nothing of the eye."""

    roll_off_db_per_mm: float = 0.0
    """Light lost with depth beyond what the device usually loses; another nuisance."""

    bits: int = 8
    """8 or 16 a voxel."""

    participant_id: str = ""
    """Copied into the volume."""

    anatomy: Anatomy = field(default_factory=Anatomy)
    """How much retinas differ."""

    def __post_init__(self) -> None:
        find_device(self.device)
        if self.laterality not in ("R", "L"):
            raise ValueError(f"phantom.laterality ({self.laterality!r}) must be 'R' or 'L'")
        if self.study_group not in range(4):
            raise ValueError(f"phantom.study_group ({self.study_group}) must be 0, 1, 2 or 3")
        if not 0 <= self.effect <= 2:
            raise ValueError(f"phantom.effect ({self.effect}) must lie between 0 and 2")
        if not 0 < self.scale <= 1:
            raise ValueError(f"phantom.scale ({self.scale}) must lie above 0 and be at most 1")
        if self.bits not in (8, 16):
            raise ValueError(f"phantom.bits ({self.bits}) must be 8 or 16")
        for name in ("gain_db", "roll_off_db_per_mm"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"phantom.{name} ({getattr(self, name)}) must be a number")
        if not set(self.arranged) <= set(ORDERS):
            raise ValueError(f"phantom.arranged {self.arranged} must name {ORDERS}")
        if self.shape is not None:
            self.shape = three_counts("phantom.shape", self.shape)
        if self.extent_mm is not None:
            self.extent_mm = three_sizes("phantom.extent_mm", self.extent_mm)

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        device, protocol = find_device(self.device), protocol_of(self.device)
        sign = 1 if self.laterality == "R" else -1
        shape = self.shape or self._scaled(device, radial=self.pattern == "radial")
        grid = Grid.of(shape, self.extent_mm or device.extent_mm, nasal_sign=sign)
        if self.pattern == "radial":
            grid = radial_grid(grid, self.circles, CIRCLE_RADIUS_MM, sign)
        return disc_grid(grid) if is_disc(protocol) else grid

    def _scaled(self, device: Device, *, radial: bool) -> tuple[int, int, int]:
        """The device's shape, smaller, but large enough to show a retina."""
        if self.scale == 1:
            return device.shape
        bscans, rows, columns = (round(count * self.scale) for count in device.shape)
        return device.shape[0] if radial else max(bscans, 4), max(rows, 32), max(columns, 24)

    @property
    def pattern(self) -> Pattern:
        """How the B-scans lie."""
        protocol = protocol_of(self.device)
        return protocol.pattern if protocol else "raster"

    @property
    def circles(self) -> int:
        """How many of the last frames of a radial scan are circles."""
        return RADIAL_CIRCLES if self.pattern == "radial" else 0

    @property
    def protocol(self) -> str:
        """As it stands in the file and its name."""
        return self.device if protocol_of(self.device) else f"{self.device}_macula_oct"

    @property
    def region(self) -> str:
        """What of the eye it shows, in AI-READI's words."""
        protocol = protocol_of(self.device)
        return protocol.region if protocol else "Macula"


@dataclass(frozen=True, slots=True)
class PhantomTruth:
    """What a phantom shows, exactly.

    Attributes:
        surfaces_um: (len(SURFACES), bscans, columns), depth below the first row's upper edge.
        thickness_um: layer name -> (bscans, columns).
        fluid: (bscans, rows, columns), voxels whose centre lies in a cyst.
        drusen_um: (bscans, columns), height of the drusen.
        shadow: (bscans, columns), share of light that vessels take from what lies below.
        marks: name of an arrangement -> its marks.
        fovea_mm: place of the fovea, along B-scans' normal and towards the nose.
    """

    surfaces_um: Array
    thickness_um: dict[str, Array]
    fluid: NDArray[np.bool_]
    drusen_um: Array
    shadow: Array
    marks: dict[str, list[Mark]]
    fovea_mm: tuple[float, float]


def draw_phantom(spec: Phantom, seed: int) -> OctVolume:
    """Draw the volume that `spec` and `seed` name; equal arguments give equal voxels."""
    return draw_phantom_with_truth(spec, seed)[0]


def draw_phantom_with_truth(spec: Phantom, seed: int) -> tuple[OctVolume, PhantomTruth]:
    """Draw the same volume as `draw_phantom`, and say what is where.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed ({seed}) must be zero or more")
    device, grid = find_device(spec.device), spec.grid
    black, white = device.window_db
    shown = replace(
        device,
        window_db=(black - spec.gain_db, white - spec.gain_db),
        roll_off_db_per_mm=device.roll_off_db_per_mm + spec.roll_off_db_per_mm,
    )
    with one_thread():
        backscatter, truth = _backscatter(spec, grid, seed, device.texture_db)
    rng = stream(seed, "acquisition", spec.laterality, device.name, spec.acquisition)
    volume = OctVolume(
        form_image(backscatter, grid, shown, rng, bits=spec.bits),
        Spacing(*map(float, grid.spacing)),
        "drawn",
        laterality="R" if spec.laterality == "R" else "L",
        device=device.name,
        protocol=spec.protocol,
        region=spec.region,
        pattern=spec.pattern,
        participant_id=spec.participant_id,
    )
    return volume, truth


def _backscatter(
    spec: Phantom, grid: Grid, seed: int, texture_db: float
) -> tuple[Array, PhantomTruth]:
    """Mean intensity of every voxel, and the truth."""
    protocol = protocol_of(spec.device)
    anatomy = fit_anatomy(spec.anatomy, protocol) if protocol else spec.anatomy
    retina = draw_retina(grid, anatomy, seed, spec.laterality)
    if is_disc(protocol):
        retina = carve_disc(retina, seed, spec.laterality)
    if (other := spec.arranged.get(FOLDED)) is not None:
        retina = fold_retina(retina, seed, spec.laterality, other=other, effect=spec.effect)
    thickness = thin_layers(
        retina, thin=spec.thin, study_group=spec.study_group, effect=spec.effect
    )
    cysts = draw_cysts(seed, spec.laterality, spec.effect) if spec.fluid else []
    heights = [cyst_half_height(cyst, retina) for cyst in cysts]
    if spec.drusen:
        druse = draw_drusen(retina, seed, spec.laterality, spec.effect)
        squeezed = np.minimum(0.7 * druse, 0.6 * thickness["onl"])
        thickness |= {"druse": druse, "onl": thickness["onl"] - squeezed}
    for cyst, height in zip(cysts, heights, strict=True):
        thickness["inl"] = thickness["inl"] + 0.9 * height
        thickness["opl"] = thickness["opl"] + swelling(cyst, retina)
    surfaces = stack_surfaces(retina.bruch_um, thickness)
    vessels = draw_vessels(retina, surfaces, seed, spec.laterality)
    backscatter = _fill(grid, surfaces, retina)
    _shade_choroid(backscatter, grid, surfaces, seed, spec.laterality)
    vessels.darken(backscatter, grid)
    _paint_foci(backscatter, grid, surfaces, retina, spec, seed)
    marks = {
        name: lay_marks(name, seed, spec.laterality, other=other, visit=spec.acquisition)
        for name, other in spec.arranged.items()
        if name != FOLDED
    }
    fovea_mm = (
        float(grid.bscan_mm[0, 0] - retina.bscan_mm[0, 0]),
        float(grid.nasal_mm[0, 0] - retina.nasal_mm[0, 0]),
    )
    paint_marks(backscatter, grid, surfaces, marks, fovea_mm=fovea_mm, effect=spec.effect)
    fluid = _paint_cysts(backscatter, grid, surfaces, list(zip(cysts, heights, strict=True)))
    _add_texture(backscatter, grid, texture_db, stream(seed, "texture", spec.laterality))
    return backscatter, PhantomTruth(
        surfaces_um=surfaces,
        thickness_um=thickness,
        fluid=fluid,
        drusen_um=thickness["druse"],
        shadow=vessels.shadow,
        marks=marks,
        fovea_mm=fovea_mm,
    )


def _rows_below(grid: Grid, surface_um: Array) -> slice:
    """Rows that reach below a surface somewhere; nothing that it bounds lies in the others."""
    highest = surface_um.min() - 1000 * grid.spacing.row
    return slice(int(np.searchsorted(grid.row_um, highest)), None)


def _rows_across(grid: Grid, upper_um: Array, lower_um: Array) -> slice:
    """Rows between the highest point of one surface and the lowest of another, and one beside.

    Above them all is above both surfaces, below them below both, to the last bit.
    """
    step_um = 1000 * grid.spacing.row
    ends = (upper_um.min() - step_um, lower_um.max() + step_um)
    first, last = np.searchsorted(grid.row_um, ends)
    return slice(int(first), int(last))


def _below(grid: Grid, surface_um: Array, rows: slice = slice(None)) -> Array:
    """Share of each voxel below a surface, (bscans, rows, columns); 0 above, 1 below."""
    step_um = np.float32(grid.spacing.row * 1000)
    share = grid.row_um[rows, None] - surface_um[:, None, :]
    share /= step_um
    share += np.float32(0.5)
    return np.clip(share, 0, 1, out=share)


def _fill(grid: Grid, surfaces_um: Array, retina: Retina) -> Array:
    """Layers of even backscatter."""
    level = {name: float(decibels(value)) for name, value in retina.reflectivity_db.items()}
    out = np.full(grid.shape, level["vitreous"], np.float32)
    above = level["vitreous"]
    for name, surface in zip(SURFACES, surfaces_um, strict=True):
        rows = _rows_across(grid, surface, surface)
        share = _below(grid, surface, rows)
        change = np.float32(level[name] - above)
        share *= change
        out[:, rows] += share
        out[:, rows.stop :] += change
        above = level[name]
    return out


CHOROID_LOSS_DB_PER_MM = 55.0
"""Decay below Bruch's membrane in a real Spectralis volume: 23 dB in 0.35 mm, less noise."""


def _shade_choroid(
    backscatter: Array, grid: Grid, surfaces_um: Array, seed: int, laterality: str
) -> None:
    """Decay below Bruch's membrane, and the dark lumina of choroidal vessels."""
    bruch, sclera = surfaces_um[LAYERS.index("choroid")], surfaces_um[-1]
    blobs_mm = (0.15, 0.06, 0.10)
    width = tuple(b / s for b, s in zip(blobs_mm, grid.spacing, strict=True))
    rows = _rows_below(grid, bruch)
    noise = smooth_noise(stream(seed, "choroid", laterality), grid.shape, width)[:, rows]
    lumen = _below(grid, bruch + 25, rows)
    fade = sclera[:, None, :] - grid.row_um[rows, None]
    fade /= (sclera - bruch)[:, None, :]
    fade *= 2  # vessels thin out towards the sclera
    lumen *= np.clip(fade, 0, 1, out=fade)
    dark_db = 3.5 * np.clip(noise + 0.3, -1.2, 1.5)
    dark_db *= lumen
    loss_db = grid.row_um[rows, None] - bruch[:, None, :]
    np.clip(loss_db, 0, None, out=loss_db)
    loss_db /= 1000
    loss_db *= -CHOROID_LOSS_DB_PER_MM
    loss_db -= dark_db
    backscatter[:, rows] *= decibels(loss_db)


def _add_texture(
    backscatter: Array, grid: Grid, texture_db: float, rng: np.random.Generator
) -> None:
    """Grain of the tissue: blobs of some ten micrometres that neighbouring B-scans share."""
    if texture_db > 0:
        blobs_mm = (0.02, 0.009, 0.009)
        width = tuple(b / s for b, s in zip(blobs_mm, grid.spacing, strict=True))
        backscatter *= decibels(texture_db * smooth_noise(rng, grid.shape, width))


def _paint_cysts(
    backscatter: Array, grid: Grid, surfaces_um: Array, cysts: list[tuple[Cyst, Array]]
) -> NDArray[np.bool_]:
    """Darken the cysts to a little above the vitreous."""
    inside = np.zeros(grid.shape, np.float32)
    if not cysts:
        return inside > 0.5
    top, bottom = surfaces_um[LAYERS.index("inl")], surfaces_um[LAYERS.index("opl")]
    for cyst, height in cysts:
        middle = (top + bottom) / 2 + np.float32(cyst.lift * 0.25) * (bottom - top)
        columns = np.flatnonzero(height.any(axis=0))
        if not len(columns):
            continue
        at = slice(columns[0], columns[-1] + 1)
        upper, lower = (middle - height)[:, at], (middle + height)[:, at]
        rows = _rows_across(grid, upper, lower)
        share = _below(grid, upper, rows) - _below(grid, lower, rows)
        np.maximum(inside[:, rows, at], share, out=inside[:, rows, at])
    backscatter *= 1 - inside
    backscatter += np.float32(decibels(-28.0)) * inside
    return inside > 0.5


def _paint_foci(
    backscatter: Array, grid: Grid, surfaces_um: Array, retina: Retina, spec: Phantom, seed: int
) -> None:
    """Small bright dots between the nerve fibre layer and the photoreceptors."""
    foci = draw_foci(seed, spec.laterality, study_group=spec.study_group, effect=spec.effect)
    size_mm = [max(0.015, 0.5 * step) for step in grid.spacing]
    bruch = surfaces_um[LAYERS.index("choroid")]
    for y_mm, x_mm, fraction in foci:
        i = int(np.abs(retina.bscan_mm[:, 0] - y_mm).argmin())
        j = int(np.abs(retina.nasal_mm[0] - x_mm).argmin())
        depth_um = surfaces_um[0, i, j] + fraction * (bruch[i, j] - surfaces_um[0, i, j])
        axial = np.exp(-0.5 * ((grid.row_um - depth_um) / 1000 / size_mm[1]) ** 2)
        along = np.exp(-0.5 * ((retina.nasal_mm[0] - x_mm) / size_mm[2]) ** 2)
        backscatter[i] += 0.8 * axial[:, None] * along[None, :]
