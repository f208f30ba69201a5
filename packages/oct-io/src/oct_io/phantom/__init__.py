"""Made-up retinas: volumes with known layers and lesions, and whole trees of them as DICOM.

`drawing` makes one volume: `retina` its layers, `structures` and `lesions` what is in them,
`arrangements` lesions that are only another order of parts, `devices` how a scanner sees it. `tree`
writes a data set that `specification` describes: `scans`, `tables` and `history` what is in it,
`nuisance` and `faults` what goes wrong.
The source, the commands and tests import this wing; it writes DICOM and never reads anything.
"""

from oct_io.phantom.devices import DEVICES, Device
from oct_io.phantom.drawing import Phantom, PhantomTruth, draw_phantom, draw_phantom_with_truth
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
