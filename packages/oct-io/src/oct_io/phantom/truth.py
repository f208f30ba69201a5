"""What a phantom shows, written beside its scan as a reader of real scans would find it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oct_io.dicom.segmentation_writer import write_segmentation
from oct_io.phantom.drawing import PhantomTruth
from oct_io.phantom.retina import SURFACES
from oct_io.saving import appearing
from oct_io.volume import Spacing

BOUNDARIES = {
    "rnfl": "ILM",
    "gcl": "RNFL/GCL",
    "ipl": "GCL/IPL",
    "inl": "IPL/INL",
    "opl": "INL/OPL",
    "onl": "OPL/ONL",
    "ez": "EZ",
    "rpe": "RPE",
    "druse": "RPE/BM",
    "choroid": "BM",
    "sclera": "CSI",
}
"""Surface by the layer below it -> name in `oct_io.boundaries`; the lower edge of the ellipsoid
zone has none."""

CLASSES = ("background", "IRF")


def true_layers(truth: PhantomTruth, spacing: Spacing) -> dict[str, NDArray[np.float32]]:
    """Rows at which the boundaries of a phantom lie, (bscans, columns), by standard name."""
    rows = truth.surfaces_um / np.float32(1000 * spacing.row) - np.float32(0.5)
    return {
        BOUNDARIES[layer]: surface.astype(np.float32)
        for layer, surface in zip(SURFACES, rows, strict=True)
        if layer in BOUNDARIES
    }


def true_mask(truth: PhantomTruth) -> NDArray[np.uint8]:
    """Voxels of cysts, which all lie within the retina, as a place in `CLASSES`."""
    return truth.fluid.astype(np.uint8)


def write_truth(
    truth: PhantomTruth, spacing: Spacing, scan: Path, *, mask: Path, layers: Path
) -> None:
    """Write fluid as a DICOM segmentation of the file `scan`, and boundaries as an .npz."""
    from pydicom import dcmread  # half of a second to import

    source = dcmread(scan, stop_before_pixels=True)
    write_segmentation(mask, true_mask(truth), CLASSES, source, algorithm="oct-io phantom")
    with appearing(layers) as part, part.open("wb") as file:
        np.savez_compressed(file, **true_layers(truth, spacing))  # type: ignore[arg-type]
