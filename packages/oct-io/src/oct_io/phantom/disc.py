"""The nerve head: where the retina's layers end, nerve fibres dive, and a cup may lie."""

from dataclasses import replace

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
