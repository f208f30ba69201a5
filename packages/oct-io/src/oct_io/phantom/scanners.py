"""Made-up counterparts of the scanners of AI-READI: one device for each of their protocols."""

from dataclasses import replace

from oct_io.phantom.devices import DEVICES, SPECTRALIS, Device, device_of
from oct_io.phantom.retina import Anatomy
from oct_io.scan.protocols import PROTOCOLS, Protocol

ROW_MM = {
    "heidelberg_spectralis": 0.003872,  # as its .vol and .xml exports say
    "topcon_maestro2": 0.0026,  # usual figures, found in no public file
    "topcon_triton": 0.0026,
    "zeiss_cirrus": 0.001953,  # 2 mm over 1024 rows
}
"""Millimetres between rows."""

RADIAL_MM = 6.0
"""Length of a radial B-scan through the nerve head."""

_OPTICS = {
    "heidelberg_spectralis": SPECTRALIS,  # its tracker averages B-scans
    "topcon_maestro2": (6.0, 17.0, 1, -21.0, (-27.0, 5.0), 2.0, 0.5, 1.0),  # cubes of one pass
    "topcon_triton": (8.0, 20.0, 1, -23.0, (-26.0, 4.0), 0.3, 0.5, 1.0),  # a swept source
    "zeiss_cirrus": (5.0, 15.0, 1, -20.0, (-28.0, 4.0), 2.5, 0.3, 1.0),
}
"""Optics by device, as in `devices`. Chosen by eye to differ; only Spectralis' are tuned on a real
scan. A swept source hardly loses depth."""


def scanner(protocol: Protocol) -> Device:
    """The device of `protocol`, sampling as it does."""
    _, rows, _ = protocol.shape
    across_mm, along_mm = protocol.extent_mm or (RADIAL_MM, RADIAL_MM)
    extent_mm = (across_mm, rows * ROW_MM[protocol.device], along_mm)
    device = device_of(protocol.device, protocol.shape, extent_mm, *_OPTICS[protocol.device])
    return replace(device, looks=1) if "octa" in protocol.token else device


SCANNERS: dict[str, Device] = {protocol.token: scanner(protocol) for protocol in PROTOCOLS}
"""By protocol token, at true size."""


def find_device(name: str) -> Device:
    """The made-up device called `name`, or the scanner of the protocol called so.

    Raises:
        ValueError: no such device; the text lists those there are.
    """
    if name in DEVICES:
        return DEVICES[name]
    if name in SCANNERS:
        return SCANNERS[name]
    raise ValueError(f"device ({name!r}) must be one of {', '.join([*sorted(DEVICES), *SCANNERS])}")


def protocol_of(device: str) -> Protocol | None:
    """The protocol of that token; None for the made-up devices of `DEVICES`."""
    return next((protocol for protocol in PROTOCOLS if protocol.token == device), None)


def is_disc(protocol: Protocol | None) -> bool:
    """Whether the scan shows the nerve head."""
    return protocol is not None and protocol.region.startswith("Optic Disc")


def fit_anatomy(anatomy: Anatomy, protocol: Protocol) -> Anatomy:
    """`anatomy` bent and tilted so little that a wide field keeps the retina in its window.

    Depth grows with distance for tilt and with its square for curvature, and the window of a 12 mm
    scan is hardly deeper than that of a 6 mm one; a photographer would not have kept it either.
    """
    across_mm, along_mm = protocol.extent_mm or (RADIAL_MM, RADIAL_MM)
    wide = max(1.0, across_mm / 6, along_mm / 6)
    if is_disc(protocol):
        wide *= 2  # the middle of the curvature is the fovea, and that lies far aside
    return replace(
        anatomy,
        tilt_sd=anatomy.tilt_sd / wide,
        curvature_mean=anatomy.curvature_mean / wide,
        curvature_sd=anatomy.curvature_sd / wide**2,
    )
