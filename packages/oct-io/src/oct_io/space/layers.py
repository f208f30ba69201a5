"""Layer boundaries of a scan, carried along when its voxels are resampled."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from oct_io.space.resample import place
from oct_io.space.windows import Window
from oct_io.volume import OctVolume

Rows = NDArray[np.float32]


def resample_layers(volume: OctVolume, window: Window) -> dict[str, Rows]:
    """Rows of the layers of `volume` in what `resample(volume, window)` cuts out.

    A boundary is a row position for each A-scan, (bscans, columns); whole numbers are centres of
    voxels. Across, it is sampled with the weights of the voxels, over the A-scans that have it.

    Returns:
        For each layer (bscans, columns) of the window, float32. NaN where fewer than half of the
        contributing A-scans, by weight, have the boundary, and where it lies outside of the window.
    """
    spacing, origin_mm, (across, _, along) = place(volume, window)
    rows = window.shape_on(volume)[1]
    found: dict[str, Rows] = {}
    layers: Mapping[str, Rows] = volume.layers
    for name, layer in layers.items():
        known = np.isfinite(layer)
        height = np.where(known, layer, 0).astype(np.float64)
        weight = across @ known.astype(np.float64) @ along.T
        total = across @ height @ along.T
        mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight >= 0.5)
        placed = ((mean + 0.5) * volume.spacing.row - origin_mm[1]) / spacing.row - 0.5
        placed[(placed < -0.5) | (placed > rows - 0.5)] = np.nan
        result = placed.astype(np.float32)
        found[name] = result[:, ::-1].copy() if window.mirrors(volume) else result
    return found
