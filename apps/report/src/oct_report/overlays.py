"""Masks on a B-scan, and thickness seen from the front."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from oct_report.figures import CLASSES, INK, SOFT, BScan, _png, _show

VEIL = 0.45  # of a class over the grey of the B-scan


def draw_overlay(
    bscan: BScan,
    masks: Sequence[tuple[str, NDArray[np.integer]]],
    names: Sequence[str],
    *,
    plain: Sequence[int] = (0,),
) -> bytes:
    """Draw a B-scan, and beside it the same under the classes of each mask.

    Args:
        bscan: the B-scan.
        masks: title and classes (rows, columns) of each; what is no number of a name stays grey.
        names: of the classes from 0.
        plain: classes that are not drawn, such as the background.
    """
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panels = figure.subplots(1, 1 + len(masks), squeeze=False)[0]
    _show(panels[0], bscan, "B-scan")
    extent = (0.0, bscan.width, bscan.depth, 0.0)
    seen: set[int] = set()
    for axes, (title, mask) in zip(panels[1:], masks, strict=True):
        _show(axes, bscan, title)
        veil = np.zeros((*mask.shape, 4))
        for number in range(len(names)):
            there = mask == number
            if number not in plain and there.any():
                veil[there] = (*to_rgb(CLASSES[number % len(CLASSES)]), VEIL)
                seen.add(number)
        axes.imshow(veil, extent=extent, interpolation="nearest", aspect="auto")
    if seen:
        patches = [
            Patch(color=CLASSES[number % len(CLASSES)], label=names[number])
            for number in sorted(seen)
        ]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5
        )
    return _png(figure)


def draw_patches(
    bscan: BScan,
    truth: NDArray[np.bool_],
    chances: NDArray[np.float64],
    *,
    name: str,
    top: float,
) -> bytes:
    """Draw a B-scan, the same under a structure, and under how likely each patch holds it.

    Args:
        bscan: the B-scan.
        truth: where the structure is, (rows, columns).
        chances: of each patch, (patches down, patches across).
        name: of the structure.
        top: chance at which the scale ends.
    """
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panels = figure.subplots(1, 3, squeeze=False)[0]
    extent = (0.0, bscan.width, bscan.depth, 0.0)
    for axes, title in zip(panels, ("B-scan", f"{name}: true", "chance by patch"), strict=True):
        _show(axes, bscan, title)
    veil = np.zeros((*truth.shape, 4))
    veil[truth] = (*to_rgb(CLASSES[1]), VEIL)
    panels[1].imshow(veil, extent=extent, interpolation="nearest", aspect="auto")
    image = panels[2].imshow(
        chances,
        extent=extent,
        interpolation="nearest",
        aspect="auto",
        cmap="inferno",
        vmin=0.0,
        vmax=max(top, 1e-6),
        alpha=0.65,
    )
    figure.colorbar(image, ax=panels[2]).ax.tick_params(labelsize=8, colors=SOFT, length=0)
    return _png(figure)


def draw_thickness(
    maps: Sequence[tuple[str, NDArray[np.float64]]], *, depth: float, width: float
) -> bytes:
    """Draw maps of thickness in micrometres (bscans, columns) on one scale; unknown stays white.

    Args:
        maps: title and map of each.
        depth: millimetres from the first B-scan to the last; NaN draws voxels.
        width: millimetres of a B-scan.
    """
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    known = np.concatenate([one[np.isfinite(one)] for _, one in maps])
    low, high = np.percentile(known, [1, 99]) if len(known) else (0.0, 1.0)
    extent = (0.0, width, depth, 0.0) if np.isfinite([depth, width]).all() else None
    image = None
    for axes, (title, one) in zip(panels, maps, strict=True):
        image = axes.imshow(one, extent=extent, aspect="auto", cmap="viridis", vmin=low, vmax=high)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set_xlabel("mm" if extent else "voxels", fontsize=9, color=SOFT)
        axes.tick_params(labelsize=8, colors=SOFT, length=0)
    if image is not None:
        figure.colorbar(image, ax=panels, label="um")
    return _png(figure)
