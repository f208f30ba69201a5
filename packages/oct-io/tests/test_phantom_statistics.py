import os
from pathlib import Path

import numpy as np
import pytest

from oct_io.phantom import Phantom, draw_phantom

TISSUE = 80
"""Grey level above which a block counts as tissue."""


def block_sums(image, height, width):
    """Sums over all blocks of that size, by a summed-area table."""
    table = np.pad(image.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return (
        table[height:, width:]
        - table[:-height, width:]
        - table[height:, :-width]
        + table[:-height, :-width]
    )


def grain(bscan):
    """What remains of a B-scan without its 9 x 9 means, and where that is tissue."""
    mean = block_sums(bscan, 9, 9) / 81
    return bscan[4:-4, 4:-4] - mean, mean > TISSUE


def correlation(first, second, where):
    a, b = first[where], second[where]
    return float((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))


def measure(voxels):
    """The figures that the phantom is tuned to; rows 20 to 100 are vitreous."""
    voxels = voxels.astype(np.float64)
    p50, p99, p999 = np.percentile(voxels, [50, 99, 99.9])
    vitreous = voxels[:, 20:100]
    found = [grain(bscan) for bscan in voxels]
    r = np.stack([residual for residual, _ in found])
    m = np.stack([mask for _, mask in found])
    mean = np.stack([block_sums(bscan, 9, 9) / 81 for bscan in voxels])
    spread = np.stack([block_sums(bscan**2, 9, 9) / 81 for bscan in voxels]) - mean**2
    return {
        "mean": voxels.mean(),
        "std": voxels.std(),
        "zeros": (voxels == 0).mean(),
        "p50": p50,
        "p99": p99,
        "p99.9": p999,
        "vitreous mean": vitreous.mean(),
        "vitreous std": vitreous.std(),
        "tissue CV": np.median(np.sqrt(spread[m]) / mean[m]),
        "axial lag 1": correlation(r[:, 1:], r[:, :-1], m[:, 1:] & m[:, :-1]),
        "axial lag 2": correlation(r[:, 2:], r[:, :-2], m[:, 2:] & m[:, :-2]),
        "lateral lag 1": correlation(r[..., 1:], r[..., :-1], m[..., 1:] & m[..., :-1]),
        "lateral lag 2": correlation(r[..., 2:], r[..., :-2], m[..., 2:] & m[..., :-2]),
        "B-scan lag 1": correlation(r[1:], r[:-1], m[1:] & m[:-1]),
        "brightness": voxels.mean(axis=(1, 2)).std() / voxels.mean(),
    }
