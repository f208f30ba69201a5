"""What lies in a retina besides its layers: the nerve head, and vessels.

At the nerve head layers end, nerve fibres dive, and a cup may lie. Vessels are bright on top and
dark below.
"""

from dataclasses import dataclass, replace

import numpy as np

from oct_io.phantom.grid import Array, Grid, stream
from oct_io.phantom.retina import LAYERS, Retina

DISC_NASAL_MM = 4.5
"""Middle of the disc from the fovea, on the side of the nose; the usual figure for adults."""

RIM_UM, FLOOR_UM, CUP_UM = 290.0, 25.0, 330.0
"""Height of the rim, what covers the cup's floor, and how deep that lies below Bruch's membrane."""


def carve_disc(retina: Retina, seed: int, laterality: str) -> Retina:
    """`retina` with a nerve head: all layers but the nerve fibres end at the disc's margin."""
    rng = stream(seed, "disc", laterality)
    radius_mm = 0.78 + 0.14 * rng.random()
    cup_mm = radius_mm * (0.25 + 0.4 * rng.random())
    y = retina.bscan_mm - 0.1 * rng.standard_normal()
    x = retina.nasal_mm - DISC_NASAL_MM - 0.1 * rng.standard_normal()
    r = np.sqrt(y**2 + (1.1 * x) ** 2)  # taller than wide
    inside, cup = _step(r, radius_mm, 0.03), _step(r, cup_mm, 0.09)
    thickness = dict(retina.thickness_um)
    for name in LAYERS:
        keep = 1 - (0.7 if name == "choroid" else 0.98) * inside
        thickness[name] = (thickness[name] * keep).astype(np.float32)
    # The fibres of the whole retina meet here: three times as thick at the margin as far away.
    bundle = 1 + 1.6 * np.exp(-(((r - radius_mm) / 0.7) ** 2))
    rim = RIM_UM * (1 - cup) + FLOOR_UM * cup
    fibres = retina.thickness_um["rnfl"] * bundle * (1 - inside) + rim * inside
    thickness["rnfl"] = fibres.astype(np.float32)
    return replace(
        retina,
        thickness_um=thickness,
        bruch_um=(retina.bruch_um + CUP_UM * cup).astype(np.float32),
    )


def _step(distance: Array, at: float, width: float) -> Array:
    """1 nearer than `at`, 0 farther, smooth in between."""
    return np.asarray(1 / (1 + np.exp(np.clip((distance - at) / width, -40, 40))), np.float32)


def disc_grid(grid: Grid) -> Grid:
    """The same samples, with the nerve head where the fovea was."""
    return replace(grid, nasal_mm=grid.nasal_mm + np.float32(DISC_NASAL_MM))


def radial_grid(grid: Grid, circles: int, radius_mm: float, nasal_sign: int) -> Grid:
    """Frames along lines through the middle and, the last ones, along circles around it.

    `bscan_mm` and `nasal_mm` of the result are (frames, columns): every A-scan has a place of its
    own.

    Args:
        grid: gives length, number and depth of the frames.
        circles: how many frames are circles.
        radius_mm: of the first circle; each next one is a fifth of that wider.
        nasal_sign: 1 in right eyes, -1 in left ones.
    """
    frames, _, columns = grid.shape
    lines = frames - circles
    along = nasal_sign * np.sort(grid.nasal_mm[0] * nasal_sign)
    turn = 2 * np.pi * np.arange(columns) / columns
    down, nasal = [], []
    for i in range(frames):
        if i < lines:
            angle = np.pi * i / lines
            down.append(-along * np.sin(angle) * nasal_sign)
            nasal.append(along * np.cos(angle))
        else:
            reach = radius_mm * (1 + 0.2 * (i - lines))
            down.append(-reach * np.sin(turn))
            nasal.append(nasal_sign * reach * np.cos(turn))
    return replace(
        grid,
        bscan_mm=np.stack(down).astype(np.float32),
        nasal_mm=np.stack(nasal).astype(np.float32),
    )


@dataclass(frozen=True, slots=True)
class Vessels:
    """Where vessels run.

    Attributes:
        radius_um: (bscans, columns), half the lumen's height over each A-scan; 0 beside vessels.
        centre_um: (bscans, columns), depth of the lumen's middle.
        shadow: (bscans, columns), share of light taken from what lies below.
    """

    radius_um: Array
    centre_um: Array
    shadow: Array

    def darken(self, backscatter: Array, grid: Grid) -> None:
        """Draw the vessels into `backscatter`, in place."""
        i, j = np.nonzero(self.shadow > 0.01)
        if not len(i):
            return
        step_um = np.float32(grid.spacing.row * 1000)
        depth = grid.row_um[None, :] - self.centre_um[i, j][:, None]
        radius = self.radius_um[i, j][:, None]
        share = np.clip((depth + radius) / step_um + 0.5, 0, 1)
        share = share * np.clip((radius - depth) / step_um + 0.5, 0, 1)
        # The upper wall and the blood's first half scatter strongly, the lower half hardly.
        bright = share * np.exp(-0.5 * ((depth + 0.4 * radius) / (0.5 * radius + 1)) ** 2)
        below = np.clip((depth - 0.3 * radius) / (0.7 * radius + step_um), 0, 1)
        lines = backscatter[i, :, j] * (1 - 0.6 * share) + 0.5 * bright
        backscatter[i, :, j] = lines * (1 - self.shadow[i, j][:, None] * below)


def _paths(rng: np.random.Generator) -> list[tuple[bool, float, float, float, float]]:
    """(runs along B-scans?, start, slope, bend, radius in mm) of each vessel."""
    paths = []
    for side in (-1.0, 1.0):
        for radius in (0.065, 0.05, 0.035):  # the arcade and two lesser ones beside it
            start = side * (1.5 + 1.3 * rng.random())
            paths.append((True, start, side * 0.08 * rng.standard_normal(), side * -0.05, radius))
        for _ in range(3):  # branches that run towards the fovea and stop before it
            start = float(rng.uniform(-2.7, 2.7))
            slope = 0.35 * float(rng.standard_normal())
            paths.append((False, start, slope, side, 0.030 + 0.02 * rng.random()))
    return paths


def draw_vessels(retina: Retina, surfaces_um: Array, seed: int, laterality: str) -> Vessels:
    """Arcades above and below the fovea, and branches from them towards it."""
    rng = stream(seed, "vessels", laterality)
    y = retina.bscan_mm + np.zeros_like(retina.bruch_um)
    x = retina.nasal_mm + np.zeros_like(retina.bruch_um)
    height = np.zeros_like(retina.bruch_um)
    for along, start, slope, bend, radius in _paths(rng):
        wave = 0.12 * np.sin(1.5 * (x if along else y) + 6.28 * rng.random())
        if along:
            distance = np.abs(y - (start + slope * x + bend * x**2 + wave))
            present = np.ones_like(x)
        else:
            distance = np.abs(x - (start + slope * np.abs(y) + wave))
            present = (np.sign(y) == bend) & (np.abs(y) > 0.5) & (np.abs(y) < 2.8)
        lumen = np.sqrt(np.clip(radius**2 - distance**2, 0, None)) * present
        height = np.maximum(height, lumen)
    height = height * (y**2 + x**2 > 0.45**2)  # none in the foveal avascular zone
    height_um = (1000 * height).astype(np.float32)
    centre = surfaces_um[0] + height_um * 0.9 + 8
    shadow = 1 - np.exp(-height_um / 30)
    return Vessels(height_um, centre.astype(np.float32), (0.85 * shadow).astype(np.float32))


FOLD_MM = (2.6, 3.4)
"""From one fold to the next, across them: wider than a patch and narrower than the field."""
FOLD_UM = (35.0, 50.0)
"""By how much they lift and sink the retina."""
FOLD_DEGREES = (35.0, 55.0)
"""Between a fold and the B-scans."""


def fold_retina(
    retina: Retina, seed: int, laterality: str, *, other: bool, effect: float
) -> Retina:
    """The same retina on oblique folds of choroid, all layers lifted and sunk together.

    Args:
        retina: to fold.
        seed: of the person.
        laterality: R or L.
        other: whether they run down towards the nose, as in an ill eye, or up towards it. Seen from
            the last B-scan to the first, the one is the other: a B-scan alone knows nothing of it.
        effect: of what height they usually have.
    """
    rng = stream(seed, "folds", laterality)
    pitch_mm, height_um, degrees = (rng.uniform(*ends) for ends in (FOLD_MM, FOLD_UM, FOLD_DEGREES))
    turn, phase = np.deg2rad(degrees), rng.uniform(0, 2 * np.pi)
    along = -1.0 if other else 1.0
    across_mm = np.sin(turn) * retina.nasal_mm + along * np.cos(turn) * retina.bscan_mm
    wave = np.sin(2 * np.pi * across_mm / pitch_mm + phase)
    lifted = retina.bruch_um + effect * height_um * wave
    return replace(retina, bruch_um=lifted.astype(np.float32))
