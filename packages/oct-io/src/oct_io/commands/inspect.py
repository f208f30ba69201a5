"""`oct-io inspect FILE`: what one scan is."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from oct_io.catalog.render import colour_names, draw_enface, draw_montage, draw_overlay, write_png
from oct_io.commands import Commands, add_command, plain_console
from oct_io.errors import ScanError
from oct_io.readers.registry import open_volume
from oct_io.records.annotations import add_annotations
from oct_io.records.companions import Companions, look_beside
from oct_io.records.sidecars import FolderSidecars
from oct_io.scan.file import ScanFile
from oct_io.scan.flags import FLAGS, find_flags
from oct_io.scan.header import ScanHeader
from oct_io.space.layers import measure_classes, measure_thickness
from oct_io.volume import OctVolume, Spacing


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "inspect", _run)
    command.add_argument("file", metavar="FILE")
    command.add_argument(
        "--root", help="data set that it lies in: its volume.json, and those on the way, count"
    )
    command.add_argument("--member", help="array of an .npz, series of an .e2e")
    command.add_argument(
        "--spacing",
        nargs=3,
        type=float,
        metavar=("BSCAN", "ROW", "COLUMN"),
        help="millimetres, above what the file says",
    )
    command.add_argument("--flags", action="store_true", help="also decode, and say what is odd")
    command.add_argument("--png", type=Path, metavar="OUT", help="also decode, and draw B-scans")
    command.add_argument("--enface", type=Path, metavar="OUT", help="also draw it from the front")
    command.add_argument("--mask", metavar="FILE", help="classes of its voxels, if not beside it")
    command.add_argument("--layers", metavar="FILE", help="its boundaries, likewise")
    command.add_argument(
        "--overlay", type=Path, metavar="OUT", help="also draw both over the middle B-scan"
    )
    command.add_argument(
        "--slab",
        nargs=2,
        type=float,
        metavar=("TOP", "BOTTOM"),
        help="depths in mm between which --enface averages; all of the scan if not given",
    )


def _run(options: argparse.Namespace) -> None:
    """Say what a scan is, without saying whose."""
    if options.slab and not options.enface:
        raise ValueError("--slab needs --enface: it says what that picture averages over")
    scan = open_volume(
        options.file,
        spacing=Spacing(*options.spacing) if options.spacing else None,
        member=options.member,
        sidecar=_said(options.file, options.root),
    )
    _print_header(scan.header)
    mask, layers = _companions(options)
    annotated = bool(mask or layers or scan.header.layers)
    of_volumes = bool(options.flags or options.png or options.enface)
    if not (of_volumes or options.overlay or annotated):
        return
    if not of_volumes:  # boundaries can be looked at in lines and circles as well
        scan = replace(scan, file=replace(scan.file, patterns=(scan.header.pattern,)))
    volume = add_annotations(scan.load(), scan.file, mask=mask, layers=layers)
    if annotated:
        _print_annotations(volume)
    if of_volumes:
        _print_flags(volume)
    _draw(volume, options)


def _companions(options: argparse.Namespace) -> tuple[ScanFile | None, ScanFile | None]:
    """Mask and boundaries that are given, or that lie beside the scan."""
    beside = Companions()
    if options.mask is None or options.layers is None:
        try:
            beside = look_beside(options.file)
        except ScanError:
            beside = Companions()  # a place that cannot be listed, such as https://
    mask, layers = options.mask or beside.mask, options.layers or beside.layers
    return ScanFile(url=mask) if mask else None, ScanFile(url=layers) if layers else None


def _draw(volume: OctVolume, options: argparse.Namespace) -> None:
    if options.png:
        write_png(draw_montage(volume), options.png)
    if options.enface:
        slab = (options.slab[0], options.slab[1]) if options.slab else None
        write_png(draw_enface(volume, depth_mm=slab), options.enface)
    if options.overlay:
        write_png(draw_overlay(volume), options.overlay)


def _print_annotations(volume: OctVolume) -> None:
    """Boundaries with what lies below each, and classes with their volume."""
    if volume.layers:
        table = Table("boundary", "A-scans", "to the next, mean", "drawn in", title="layers")
        below = {one.upper: f"{one.mean_um:.1f} um" for one in measure_thickness(volume)}
        for (name, rows), hue in zip(
            volume.layers.items(), colour_names(len(volume.layers)), strict=True
        ):
            table.add_row(name, f"{np.isfinite(rows).mean():.1%}", below.get(name, ""), hue)
        plain_console().print(table)
    if volume.mask is not None:
        table = Table("class", "volume", "drawn in", title="mask")
        sizes = measure_classes(volume)
        for (name, mm3), hue in zip(sizes.items(), colour_names(len(sizes)), strict=True):
            table.add_row(name, f"{mm3:.4g} mm^3", hue)
        plain_console().print(table)


def _said(file: str, root: str | None) -> dict[str, Any] | None:
    """What the folders from `root` down to the file say of it; None without a root."""
    if root is None:
        return None
    base = root.rstrip("/")
    if not file.startswith(f"{base}/"):
        raise ValueError(f"--root ({root}) must be a folder above FILE, written like it")
    said = FolderSidecars(base).said(file.removeprefix(f"{base}/").strip("/"))
    return json.loads(said) if said else {}


def _print_header(header: ScanHeader) -> None:
    table = Table("property", "value", title="scan")
    rows = {
        "bscans x rows x columns": " x ".join(map(str, header.shape)),
        "bits": str(header.bits),
        "spacing, mm": _spacing(header),
        "confidence": header.spacing_confidence,
        "pattern": header.pattern + (f": {header.pattern_note}" if header.pattern_note else ""),
        "laterality": header.laterality,
        "device": header.device,
        "protocol": header.protocol,
        "region": header.region,
        "transfer syntax": header.transfer_syntax,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    plain_console().print(table)


def _print_flags(volume: OctVolume) -> None:
    found = find_flags(volume)
    table = Table("flag", "what it means", title=f"signal {found.signal_db:.1f} dB")
    for name in found.names:
        seen = {"lost_bytes": volume.lost_bytes, "direction": volume.direction}.get(name)
        table.add_row(name, seen or FLAGS[name])
    if not found.names:
        table.add_row("none", "")
    plain_console().print(table)


def _spacing(header: ScanHeader) -> str:
    """Millimetres and their source; a line or a circle has them within its B-scans alone."""
    if header.spacing is not None:
        return f"{_numbers(header.spacing, ' x ')} (from {header.spacing_source})"
    within = _numbers((header.row_mm, header.column_mm), " x ")
    return f"unknown between B-scans, {within} within them"


def _numbers(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:.6g}" for value in values)
