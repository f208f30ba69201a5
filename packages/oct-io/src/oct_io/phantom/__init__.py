"""Made-up retinas: volumes with known layers and lesions, and whole trees of them as DICOM."""

from oct_io.phantom.devices import DEVICES, Device
from oct_io.phantom.drawing import (
    Phantom,
    PhantomTruth,
    draw_phantom,
    draw_phantom_with_truth,
)
from oct_io.phantom.retina import LAYERS, SURFACES, Anatomy
from oct_io.phantom.specification import PhantomTree
from oct_io.phantom.tree import write_phantom_tree

__all__ = [
    "DEVICES",
    "LAYERS",
    "SURFACES",
    "Anatomy",
    "Device",
    "Phantom",
    "PhantomTree",
    "PhantomTruth",
    "draw_phantom",
    "draw_phantom_with_truth",
    "write_phantom_tree",
]
