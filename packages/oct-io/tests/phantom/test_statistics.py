import os
from pathlib import Path

import numpy as np
import pytest
from oct_io.phantom import Anatomy, Phantom, draw_phantom

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


REAL_AND_TOLERANCE = {
    "mean": (37.7, 6.0),
    "std": (55.5, 6.0),
    "zeros": (0.169, 0.06),
    "p50": (12.0, 4.0),
    "p99": (221.0, 35.0),
    "p99.9": (249.0, 45.0),
    "vitreous mean": (6.4, 3.0),
    "vitreous std": (7.2, 2.0),
    "tissue CV": (0.154, 0.03),
    "axial lag 1": (0.77, 0.06),
    "axial lag 2": (0.32, 0.10),
    "lateral lag 1": (0.79, 0.06),
    "lateral lag 2": (0.50, 0.13),
    "B-scan lag 1": (0.49, 0.18),
    "brightness": (0.076, 0.05),
}
"""Measured by `measure` on the real Spectralis volume: grey levels and vitreous on all or every
ninth of its B-scans, the B-scan lag on the middle eight."""


@pytest.fixture(scope="module")
def phantom_figures():
    spec = Phantom(
        device="spectralis_like",
        shape=(6, 496, 512),
        extent_mm=(0.18, 1.920512, 5.725184),
        anatomy=Anatomy(media_sd_db=0.0),  # one real scan says nothing of the spread between eyes
    )
    found = [measure(draw_phantom(spec, seed).voxels) for seed in (1, 2, 3)]
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


@pytest.mark.parametrize("name", REAL_AND_TOLERANCE)
def test_the_spectralis_like_phantom_has_the_grey_levels_and_grain_of_a_real_scan(
    phantom_figures, name
):
    """Within the tolerances above.

    What is off: the brightest percentile is some 20 grey levels too dark, because real layers have
    bright spots and the phantom's are even; grain is too alike in neighbouring B-scans (0.6 against
    0.5) and at two columns' distance (0.57 against 0.50), because much of it comes from structure
    too large for the 9 x 9 means; the real volume has single columns and whole edges in the dark,
    the phantom has not.
    """
    real, tolerance = REAL_AND_TOLERANCE[name]
    assert phantom_figures[name] == pytest.approx(real, abs=tolerance)


def test_the_recorded_figures_are_those_of_the_real_scan():
    folder = os.environ.get("OCT_SAMPLES")
    if not folder:
        pytest.skip("set OCT_SAMPLES to the folder of real scans to run this test")
    with np.load(Path(folder) / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        voxels = file["volume"]
    spread = measure(voxels[::9])
    spread["B-scan lag 1"] = measure(voxels[66:74])["B-scan lag 1"]
    for name, (real, _) in REAL_AND_TOLERANCE.items():
        assert spread[name] == pytest.approx(real, rel=0.06), name
