"""Retinal vessels: bright on top, dark below."""

from dataclasses import dataclass

import numpy as np

from oct_io.phantom.grid import Array, Grid, stream
from oct_io.phantom.retina import Retina


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
